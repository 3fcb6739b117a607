//! What the meters tell, and what a filter lets through.

use super::*;

/// Fails when: the waits of the last seconds are not told, or those of long ago are; or what came by no mailbox counts as one.
#[tokio::test(start_paused = true)]
async fn recent_waits_are_told() {
    let flow = flow("p99");
    let (address, mut heard) = speaker(&flow, "one", None).await;
    assert_eq!(report(&flow, "one").lately.messages, 0, "its start is no message");
    let mut say = async |work| {
        address.send(Origin::default(), Word::Work(work)).ok().expect("it lives");
        address.send(Origin::default(), Word::Pass).ok().expect("it lives");
        hear(&mut heard).await;
        hear(&mut heard).await;
        tokio::task::yield_now().await;
    };
    say(Duration::from_millis(8)).await;
    let first = report(&flow, "one");
    assert_eq!((first.wait_p99, first.longest_wait), (Duration::from_millis(8), Duration::from_millis(8)));
    assert_eq!((first.lately.messages, first.lately.over), (2, Duration::from_millis(8)));
    assert_eq!(first.lately.per_second(), 250.0);
    sleep(Duration::from_secs(30)).await;
    assert_eq!((report(&flow, "one").wait_p99, report(&flow, "one").lately.messages), (Duration::ZERO, 0));
    say(Duration::from_millis(1)).await;
    let wait = report(&flow, "one").wait_p99;
    assert!(wait >= Duration::from_millis(1) && wait <= Duration::from_micros(1_125), "{wait:?}");
    assert_eq!(report(&flow, "one").longest_wait, Duration::from_millis(8));
    let times = flow.times();
    assert_eq!((times.len(), times[0].waits.count()), (1, 4));
    let work = &times[0].handling["Work"];
    assert_eq!((work.count(), work.sum()), (2, Duration::from_millis(9)));
    assert!(times[0].handling.contains_key("Start"));
}

/// Fails when: a filter lets others pass, or holds back what an actor said.
#[tokio::test(start_paused = true)]
async fn a_filter_picks_by_actor_and_by_name() {
    let flow = flow("filter");
    let (next, mut heard) = speaker(&flow, "parent/next", None).await;
    let (first, _first) = speaker(&flow, "first", Some(&next)).await;
    first.send(Origin::default(), Word::Pass).ok().expect("it lives");
    hear(&mut heard).await;
    tokio::task::yield_now().await;
    let told = |filter: Filter| {
        let events = flow.events(&filter);
        events.iter().map(|event| format!("{} {}", event.receiver, event.message)).collect::<Vec<_>>()
    };
    assert_eq!(told(Filter::of_message("Pass")), ["first Pass", "parent/next Pass"]);
    assert_eq!(told(Filter::of_actor("parent")), ["parent/next Start", "parent/next Pass"]);
    assert_eq!(told(Filter::of_actor("first")), ["first Start", "first Pass", "parent/next Pass"]);
    let both = Filter { actor: Some("first".to_owned()), last: Some(1), ..Filter::of_message("Pass") };
    assert_eq!(told(both), ["parent/next Pass"]);
    assert_eq!(told(Filter::of_message("Say")), [""; 0]);
}
