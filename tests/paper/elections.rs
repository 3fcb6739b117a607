//! Leader election: Figure 2 "RequestVote RPC", "Rules for Servers", §5.1, §5.2, §5.4.1.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MIN, Fixture};

const GRANTED_IN_2: &str = "RequestVoteReply term=2 granted";
const REFUSED_IN_2: &str = "RequestVoteReply term=2 refused";

/// "When servers start up, they begin as followers." (§5.2)
///
/// Fails when: a server starts in any other role.
#[test]
fn servers_start_as_followers() {
    assert_eq!(Fixture::of(3).state(), "follower in term 0, voted for nobody");
    assert_eq!(Fixture::recovered(3, 7, Some(1), &[1, 7]).state(), "follower in term 7, voted for n1");
}

/// "If a follower receives no communication over a period of time called the election timeout, then it assumes there is
/// no viable leader and begins an election" (§5.2); with pre-vote it asks first (thesis §9.6).
///
/// Fails when: `timeout` does not start a pre-vote.
#[test]
fn a_follower_that_hears_nothing_asks_for_pre_votes_in_the_next_term() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.alarm();
    assert_eq!(n1.sent(), ["n2 PreVote term=2 last=1@1", "n3 PreVote term=2 last=1@1"]);
    assert_eq!(n1.state(), "pre-candidate in term 1, voted for nobody", "a pre-vote raises no term");
}

/// "To begin an election, a follower increments its current term and transitions to candidate state. It then votes for
/// itself and issues RequestVote RPCs in parallel to each of the other servers." (§5.2)
///
/// Fails when: the requests are sent at once instead of behind the write of the candidate's own vote.
#[test]
fn a_candidate_votes_for_itself_on_disk_and_then_asks_the_others() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.alarm();
    n1.reply_from(2, Reply::PreVote(PreVoteReply { term: 1, vote_granted: true }));
    assert_eq!(n1.state(), "candidate in term 2, voted for n1");
    assert_eq!(n1.writing().as_deref(), Some("current_term=2 voted_for=n1"));
    assert_eq!(n1.sent(), [""; 0], "nobody hears of a vote that is not on disk");
    n1.persisted();
    assert_eq!(n1.sent(), ["n2 RequestVote term=2 last=1@1", "n3 RequestVote term=2 last=1@1"]);
}

/// The others are asked when the candidate's own vote is on disk; its patience begins then, or a slow disk would end
/// every election before it can be won.
///
/// Fails when: `count_own_vote` leaves the alarm dated from the start of the campaign.
#[test]
fn a_candidate_waits_an_election_timeout_from_its_own_vote_on() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.alarm();
    n1.reply_from(2, Reply::PreVote(PreVoteReply { term: 1, vote_granted: true }));
    n1.now += std::time::Duration::from_millis(290);
    n1.persisted();
    n1.ring();
    assert_eq!(n1.state(), "candidate in term 2, voted for n1");
    n1.alarm();
    assert_eq!(n1.state(), "pre-candidate in term 2, voted for n1");
}

/// "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same
/// term." (§5.2)
///
/// Fails when: one vote less than a majority, or the same vote twice, is enough.
#[test]
fn a_candidate_leads_with_the_votes_of_a_majority() {
    let mut n1 = Fixture::of(5);
    n1.campaign();
    n1.granted(2).granted(2);
    assert_eq!(n1.raft.role(), Role::Candidate, "its own vote and n2's are two of five");
    n1.granted(4);
    assert_eq!(n1.raft.role(), Role::Leader);
}

/// "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis." (§5.2)
///
/// Fails when: `request_vote` does not look at `voted_for`.
#[test]
fn a_server_votes_once_a_term_first_come_first_served() {
    let mut n1 = Fixture::of(3);
    n1.request_vote(2, 2, (0, 0)).persisted();
    assert_eq!(n1.replies(), [GRANTED_IN_2]);
    n1.request_vote(3, 2, (0, 0));
    assert_eq!(n1.replies(), [REFUSED_IN_2]);
    n1.request_vote(2, 2, (0, 0));
    assert_eq!(n1.replies(), [GRANTED_IN_2], "the same candidate may ask again");
}

/// "Reply false if term < currentTerm." (Figure 2, RequestVote 1; §5.1)
///
/// Fails when: `request_vote` does not compare the terms: an old candidate with a long log then gets a free vote.
#[test]
fn a_vote_for_an_earlier_term_is_refused() {
    let mut n1 = Fixture::recovered(3, 2, None, &[]);
    n1.request_vote(2, 1, (9, 1));
    assert_eq!(n1.replies(), [REFUSED_IN_2]);
    assert_eq!(n1.state(), "follower in term 2, voted for nobody");
}

/// E05. "If the logs have last entries with different terms, then the log with the later term is more up-to-date. If the
/// logs end with the same term, then whichever log is longer is more up-to-date." (§5.4.1)
///
/// Fails when: `LogPosition` is ordered by index first, or by both for themselves.
#[test]
fn votes_go_to_logs_that_are_at_least_as_up_to_date() {
    let asked = |last| {
        let mut n1 = Fixture::recovered(3, 5, None, &[1, 3, 3]);
        n1.request_vote(2, 6, last).persisted();
        n1.replies() == ["RequestVoteReply term=6 granted"]
    };
    assert!(asked((3, 3)), "the same log");
    assert!(asked((4, 3)), "the same term, longer");
    assert!(asked((1, 4)), "a later term, shorter");
    assert!(!asked((2, 3)), "the same term, shorter");
    assert!(!asked((9, 2)), "an earlier term, longer");
}

/// E05. A log that was compacted away entirely still has its place: the snapshot's boundary is its last entry.
///
/// Fails when: `Log::last` is 0@0 where there are no entries.
#[test]
fn the_base_stands_in_for_a_compacted_log() {
    let recovered = Recovered {
        hard_state: HardState { current_term: 3, voted_for: None },
        base: LogPosition { index: 8, term: 3 },
        membership: Membership::of_voters([(1, ""), (2, ""), (3, "")]),
        snapshot: Some(SnapshotMetadata {
            last_included: LogPosition { index: 8, term: 3 },
            membership: Membership::of_voters([(1, ""), (2, ""), (3, "")]).into(),
            size: 1,
            checksum: 0,
        }),
        ..Recovered::default()
    };
    let mut n1 = Fixture::start(recovered);
    n1.request_vote(2, 4, (7, 3)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=4 refused"]);
    n1.alarm();
    assert_eq!(n1.sent()[0], "n2 PreVote term=5 last=8@3");
}

/// E01. Term and vote are one write: between them there is nothing to crash in.
///
/// Fails when: `become_follower` writes the new term for itself, before the vote is decided.
#[test]
fn term_and_vote_are_one_write() {
    let mut n1 = Fixture::recovered(3, 1, Some(3), &[]);
    n1.request_vote(2, 2, (0, 0));
    assert_eq!(n1.writing().as_deref(), Some("current_term=2 voted_for=n2"));
    n1.persisted();
    assert_eq!(n1.writing(), None);
}

/// E02. `voted_for` is the "candidateId that received vote in current term" (Figure 2): only a new term clears it.
///
/// Fails when: `become_follower` clears the vote whatever the term.
#[test]
fn the_vote_is_cleared_only_when_the_term_rises() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    n1.append(1, (0, 0), &[], 0);
    assert_eq!(n1.state(), "follower in term 1, voted for n1", "it steps down in its own term");
    n1.now += ELECTION_TIMEOUT_MIN;
    n1.request_vote(3, 1, (5, 1));
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 refused"]);
    n1.append(2, (0, 0), &[], 0);
    assert_eq!(n1.state(), "follower in term 2, voted for nobody");
}

/// E03. Persistent state is "updated on stable storage before responding to RPCs" (Figure 2).
///
/// Fails when: `reply` sends at once.
#[test]
fn a_vote_is_answered_when_it_is_durable() {
    let mut n1 = Fixture::of(3);
    n1.request_vote(2, 2, (0, 0));
    assert_eq!(n1.replies(), [""; 0]);
    n1.request_vote(2, 2, (0, 0));
    assert_eq!(n1.replies(), [""; 0], "asked again, it still has nothing to show");
    n1.persisted();
    assert_eq!(n1.replies(), [GRANTED_IN_2, GRANTED_IN_2]);
}

/// E04. A vote counts in the term that it was given in, and for the candidacy that asked for it.
///
/// Fails when: `request_vote_reply` does not compare the reply's term and session.
#[test]
fn a_grant_of_an_earlier_candidacy_does_not_count() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    let first = n1.session(2);
    n1.campaign();
    assert_eq!(n1.state(), "candidate in term 2, voted for n1");
    let granted = |term| Reply::RequestVote(RequestVoteReply { term, vote_granted: true });
    n1.step(Input::Response { from: 2, session: first, reply: granted(1) });
    let session = n1.session(2);
    n1.step(Input::Response { from: 2, session, reply: granted(1) });
    n1.step(Input::Response { from: 2, session: first, reply: granted(2) });
    assert_eq!(n1.raft.role(), Role::Candidate);
    n1.granted(2);
    assert_eq!(n1.raft.role(), Role::Leader);
}

/// E04. What was promised before an election does not count as a vote in it.
///
/// Fails when: `pre_vote_reply` does not compare the session.
#[test]
fn a_pre_vote_of_an_earlier_round_does_not_count() {
    let mut n1 = Fixture::of(3);
    n1.alarm();
    let first = n1.session(2);
    n1.alarm();
    let reply = Reply::PreVote(PreVoteReply { term: 0, vote_granted: true });
    n1.step(Input::Response { from: 2, session: first, reply });
    assert_eq!(n1.raft.role(), Role::PreCandidate);
}

/// E06. "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower" (§5.1),
/// also where the vote is refused.
///
/// Fails when: `request_vote` looks at the log before it looks at the term.
#[test]
fn a_later_term_is_adopted_also_where_the_vote_is_refused() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1, 1]);
    n1.request_vote(2, 2, (1, 1)).persisted();
    assert_eq!(n1.replies(), [REFUSED_IN_2]);
    assert_eq!(n1.state(), "follower in term 2, voted for nobody");
}

/// "If one server's current term is smaller than the other's, then it updates its current term to the larger value. If a
/// candidate or leader discovers that its term is out of date, it immediately reverts to follower state." (§5.1)
///
/// Fails when: `response` does not look at the reply's term.
#[test]
fn a_later_term_in_a_reply_ends_a_candidacy_and_a_leadership() {
    let refused = Reply::RequestVote(RequestVoteReply { term: 9, vote_granted: false });
    let mut candidate = Fixture::of(3);
    candidate.campaign();
    candidate.reply_from(2, refused.clone());
    assert_eq!(candidate.state(), "follower in term 9, voted for nobody");
    let mut leader = Fixture::settled_leader();
    leader.reply_from(2, refused);
    assert_eq!(leader.state(), "follower in term 9, voted for nobody");
}

/// E07. "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes the
/// leader as legitimate and returns to follower state." (§5.2)
///
/// Fails when: `append_entries` becomes a follower only for a later term.
#[test]
fn a_candidate_follows_the_leader_of_its_own_term() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    n1.append(1, (0, 0), &[1], 0);
    assert_eq!((n1.raft.role(), n1.raft.leader()), (Role::Follower, Some(2)));
}

/// "If the term in the RPC is smaller than the candidate's current term, then the candidate rejects the RPC and continues
/// in candidate state." (§5.2)
///
/// Fails when: `append_entries` does not compare the term.
#[test]
fn a_candidate_rejects_the_leader_of_an_earlier_term() {
    let mut n1 = Fixture::recovered(3, 4, None, &[]);
    n1.campaign();
    n1.append(4, (0, 0), &[4], 0);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=5 stale"]);
    assert_eq!((n1.raft.role(), n1.raft.leader()), (Role::Candidate, None));
}

/// "If election timeout elapses: start new election." (Figure 2, Candidates)
///
/// Fails when: a candidate's alarm is not set, or leads nowhere.
#[test]
fn a_candidate_whose_election_has_no_winner_starts_another() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    n1.campaign();
    assert_eq!(n1.state(), "candidate in term 2, voted for n1");
}

/// E08. A majority of one is one.
///
/// Fails when: `Raft::new` waits for the alarm.
#[test]
fn a_single_voter_elects_itself_at_once_and_commits_alone() {
    let mut n1 = Fixture::of(1);
    assert_eq!(n1.writing().as_deref(), Some("current_term=1 voted_for=n1"));
    n1.persisted();
    assert_eq!(n1.raft.role(), Role::Leader);
    n1.persisted().propose(7).persisted();
    assert_eq!(n1.told(), ["Apply [2@1 \"command 7\"] 2=>call 7"]);
}

/// E10. A candidate of an earlier term learns the later one from the refusal of its pre-vote.
///
/// Fails when: a refused pre-vote answers with no later term than the candidate's.
#[test]
fn a_refused_pre_vote_tells_the_later_term() {
    let mut n1 = Fixture::recovered(3, 7, None, &[]);
    n1.pre_vote(2, 5, (0, 0));
    assert_eq!(n1.replies(), ["PreVoteReply term=7 refused"]);
    let mut n2 = Fixture::recovered(3, 4, None, &[]);
    n2.alarm();
    n2.reply_from(3, Reply::PreVote(PreVoteReply { term: 7, vote_granted: false }));
    assert_eq!(n2.state(), "follower in term 7, voted for nobody");
}

/// "A server does not grant its (pre-)vote unless it has not heard from a valid leader for a baseline election timeout."
/// (thesis §9.6 and §4.2.3)
///
/// Fails when: `has_live_leader` is always false.
#[test]
fn a_server_that_hears_its_leader_gives_no_vote() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[], 0).persisted();
    n1.pre_vote(3, 2, (0, 0));
    assert_eq!(n1.replies(), ["PreVoteReply term=1 refused"]);
    n1.request_vote(3, 2, (0, 0));
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 refused"], "it does not even take the term");
    n1.now += ELECTION_TIMEOUT_MIN;
    n1.pre_vote(3, 2, (0, 0));
    assert_eq!(n1.replies(), ["PreVoteReply term=1 granted"]);
}

/// E12. An alarm of an earlier epoch was set by another role, or in another term.
///
/// Fails when: `timeout` does not compare the epoch.
#[test]
fn an_alarm_of_an_earlier_epoch_is_ignored() {
    let mut n1 = Fixture::settled_leader();
    let heartbeat = n1.epoch;
    n1.append(2, (0, 0), &[], 0);
    n1.now += 2 * ELECTION_TIMEOUT_MIN;
    n1.step(Input::Timeout { epoch: heartbeat });
    assert_eq!((n1.raft.role(), n1.effects.len()), (Role::Follower, 0));
}

/// "If election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to candidate:
/// convert to candidate." (Figure 2, Followers)
///
/// Fails when: hearing a leader, or granting a vote, does not move the timeout.
#[test]
fn hearing_a_leader_and_granting_a_vote_put_the_election_off() {
    let mut hears = Fixture::of(3);
    hears.now += ELECTION_TIMEOUT_MIN;
    hears.append(1, (0, 0), &[], 0).ring();
    assert_eq!(hears.raft.role(), Role::Follower);
    let mut votes = Fixture::of(3);
    votes.now += ELECTION_TIMEOUT_MIN;
    votes.request_vote(2, 1, (0, 0)).ring();
    assert_eq!(votes.raft.role(), Role::Follower);
    votes.alarm();
    assert_eq!(votes.raft.role(), Role::PreCandidate);
}

/// A vote in this server's own term ends its pre-campaign: it waits for the one that it voted for (Figure 2, Followers).
///
/// Fails when: `request_vote` leaves the pre-candidate as it is; a late pre-vote then deposes the winner.
#[test]
fn granting_a_vote_ends_a_pre_campaign() {
    let mut n1 = Fixture::recovered(3, 2, None, &[]);
    n1.alarm();
    n1.request_vote(2, 2, (0, 0)).persisted();
    assert_eq!(n1.replies(), [GRANTED_IN_2]);
    n1.reply_from(3, Reply::PreVote(PreVoteReply { term: 2, vote_granted: true }));
    assert_eq!(n1.state(), "follower in term 2, voted for n2");
}

/// "When [the target] receives a TimeoutNow request, it starts an election at once" (thesis §3.10), and tells the voters
/// that the leader wants it; a repeated or outdated request does nothing.
///
/// Fails when: `timeout_now` does not look at the term.
#[test]
fn timeout_now_starts_an_election_at_once() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[], 0).persisted();
    n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 1, leader_id: 2 }));
    assert_eq!(n1.state(), "candidate in term 2, voted for n1");
    n1.persisted();
    assert_eq!(n1.sent()[0], "n2 RequestVote term=2 last=0@0 leadership_transfer");
    n1.append(2, (0, 0), &[], 0);
    n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 1, leader_id: 2 }));
    assert_eq!(n1.state(), "follower in term 2, voted for n1");
}
