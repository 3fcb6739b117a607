//! An actor that does as it is told, and tells the test what it hears.

use super::*;

/// The vocabulary of the one actor in here.
pub(super) enum Word {
    /// Say it to the next actor as well.
    Pass,
    /// Handle it for so long.
    Work(Duration),
    /// Handle it until the gate opens.
    Wait(Arc<Semaphore>),
    /// Handle these within.
    Admit(Vec<Envelope<Word>>),
    Fail,
    Panic,
    /// Count for nothing if it comes from an earlier life.
    Report,
    Ask(RpcReplyPort<String>),
}

impl Message for Word {
    fn name(&self) -> &'static str {
        match self {
            Word::Pass => "Pass",
            Word::Work(_) => "Work",
            Word::Wait(_) => "Wait",
            Word::Admit(_) => "Admit",
            Word::Fail => "Fail",
            Word::Panic => "Panic",
            Word::Report => "Report",
            Word::Ask(_) => "Ask",
        }
    }

    fn mark(&self) -> Mark {
        if matches!(self, Word::Pass) { Mark { term: 3, index: 5 } } else { Mark::default() }
    }
}

#[cfg(feature = "cluster")]
impl ractor::Message for Word {}

/// What ractor's derived references ask for.
impl From<Envelope<Word>> for Word {
    fn from(envelope: Envelope<Word>) -> Word {
        envelope.message
    }
}

/// Tells the test what it hears.
pub(super) struct Speaker {
    cell: ActorCell,
    next: Option<Address<Word>>,
    heard: mpsc::UnboundedSender<String>,
}

type Arguments = (Option<Address<Word>>, mpsc::UnboundedSender<String>);

impl Drop for Speaker {
    fn drop(&mut self) {
        let late = self.cell.get_status() == ActorStatus::Stopped;
        let _ = self.heard.send(if late { "dropped after its supervisor heard of it" } else { "dropped" }.into());
    }
}

impl Actor for Speaker {
    type Message = Word;
    type Arguments = Arguments;

    async fn start((next, heard): Arguments, context: &mut Context<Word>) -> Result<Self, ActorProcessingErr> {
        Ok(Speaker { cell: context.cell(), next, heard })
    }

    async fn handle(&mut self, word: Word, context: &mut Context<Word>) -> Result<(), ActorProcessingErr> {
        let heard = word.name().to_string();
        match word {
            Word::Pass => {
                if let Some(next) = &self.next {
                    context.send(next, Word::Pass).map_err(|_| "the next one has stopped")?;
                }
            }
            Word::Work(duration) => sleep(duration).await,
            Word::Wait(gate) => drop(gate.acquire().await),
            Word::Admit(envelopes) => {
                for envelope in envelopes {
                    context.within(envelope, |word, context| {
                        assert_eq!(context.event() >> 48, u64::from(context.myself().identity().actor.0));
                        assert!(!matches!(word, Word::Panic), "an admitted panic");
                        if let Word::Work(duration) = word {
                            let began = std::time::Instant::now();
                            while began.elapsed() < duration {}
                            return;
                        }
                        if let Some(next) = &self.next {
                            let _ = context.send(next, word);
                        }
                    });
                }
            }
            Word::Fail => return Err("told to fail".into()),
            Word::Panic => panic!("told to panic"),
            Word::Report if context.is_stale() => context.drop_as_stale(),
            Word::Report => {}
            Word::Ask(port) => port.send(format!("{:?}", std::thread::current().id()))?,
        }
        let _ = self.heard.send(heard);
        Ok(())
    }

    async fn child_stopped(
        &mut self,
        _: ActorCell,
        cause: String,
        _: &mut Context<Word>,
    ) -> Result<(), ActorProcessingErr> {
        let _ = self.heard.send(format!("child: {cause}"));
        Ok(())
    }

    async fn stop(&mut self, _: &mut Context<Word>) {
        let _ = self.heard.send("stopped".into());
    }
}

pub(super) type Heard = mpsc::UnboundedReceiver<String>;

pub(super) async fn speaker(flow: &Flow, path: &str, next: Option<&Address<Word>>) -> (Address<Word>, Heard) {
    let (address, heard, _) = speaker_under(flow, path, Placement::Runtime, next, None).await;
    (address, heard)
}

pub(super) async fn speaker_under(
    flow: &Flow,
    path: &str,
    placement: Placement,
    next: Option<&Address<Word>>,
    supervisor: Option<ActorCell>,
) -> (Address<Word>, Heard, tokio::task::JoinHandle<()>) {
    let (sender, heard) = mpsc::unbounded_channel();
    let (address, handle) =
        spawn::<Speaker>(flow, path, placement, (next.cloned(), sender), supervisor).await.expect("it starts");
    (address, heard, handle)
}

pub(super) async fn hear(heard: &mut Heard) -> String {
    timeout(DEADLINE, heard.recv()).await.expect("in time").expect("the speaker lives")
}
