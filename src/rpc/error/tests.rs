use proptest::{collection::vec, prelude::*};

use super::*;

fn propose_errors() -> impl Strategy<Value = ProposeError> {
    let text = "[ -~é]{0,60}";
    let millis = (0..100_000u64).prop_map(Duration::from_millis);
    prop_oneof![
        (any::<u64>(), any::<u64>(), text).prop_map(|(node, leader, address)| ProposeError::NotLeader {
            node,
            leader,
            address
        }),
        (any::<u64>(), vec(any::<u64>(), 0..4), 0..9usize, 0..9usize).prop_map(
            |(node, unreachable, needed, voters)| ProposeError::NoLeader { node, unreachable, needed, voters }
        ),
        (any::<u64>(), text, millis).prop_map(|(node, limit, retry_after)| ProposeError::Busy {
            node,
            limit,
            retry_after
        }),
        (any::<usize>(), any::<usize>()).prop_map(|(size, limit)| ProposeError::TooLarge { size, limit }),
        text.prop_map(|reason| ProposeError::Rejected { reason }),
        text.prop_map(|reason| ProposeError::Unknown { reason }),
        any::<u64>().prop_map(|node| ProposeError::Unavailable { node }),
        any::<u64>().prop_map(|node| ProposeError::DiskFull { node }),
        any::<u64>().prop_map(|node| ProposeError::NodeWiped { node }),
        any::<u64>().prop_map(|node| ProposeError::NodeRemoved { node }),
        any::<(u64, u64, u64)>().prop_map(|(node, cluster, found)| ProposeError::WrongCluster { node, cluster, found }),
        any::<u64>().prop_map(|session| ProposeError::SessionExpired { session }),
        any::<(u64, u64)>().prop_map(|(session, sequence)| ProposeError::AnsweredLongAgo { session, sequence }),
    ]
}

/// As a client receives it.
fn carried(status: Status) -> Status {
    let response = status.into_http::<tonic::body::Body>();
    Status::from_header_map(response.headers()).expect("a status in the headers")
}

proptest! {
    #[test]
    fn a_propose_error_survives_the_wire(error in propose_errors()) {
        let status = carried(Status::from(error.clone()));
        let told = Told::of(&status).expect("our own details");
        let number = error.code().to_string();
        let fix = shortened(error.fix());
        prop_assert_eq!(told.code(), Some(number.as_str()));
        prop_assert_eq!(told.fix(), Some(fix.as_str()));
        prop_assert_eq!(propose_error(&status, 9), error);
    }

    // Whatever a status from elsewhere says, "not applied" must not be read out of it.
    #[test]
    fn a_status_that_is_not_ours_leaves_the_outcome_unknown(code in 0..17i32, message in ".*") {
        let error = propose_error(&carried(Status::new(Code::from(code), message)), 9);
        prop_assert_eq!(error.may_have_been_applied(), Code::from(code) != Code::Unimplemented);
    }
}

#[test]
fn a_read_error_survives_the_wire() {
    let millis = Duration::from_millis;
    for error in [
        ReadError::NoLeader { node: 1, unreachable: vec![2, 3], needed: 2, voters: 3 },
        ReadError::TimedOut { node: 1, waited: millis(5000) },
        ReadError::Busy { node: 1, limit: "max_pending 4096".to_owned(), retry_after: millis(20) },
        ReadError::Unavailable { node: 1 },
        ReadError::NodeWiped { node: 1 },
        ReadError::NodeRemoved { node: 1 },
    ] {
        assert_eq!(read_error(&carried(Status::from(error.clone())), 9), error);
    }
}

#[test]
fn the_redirect_names_the_leader_and_retries_name_a_delay() {
    let error = ProposeError::NotLeader { node: 2, leader: 1, address: "10.0.0.1:7001".to_owned() };
    let status = Status::from(error);
    assert_eq!(status.code(), Code::FailedPrecondition);
    let told = Told::of(&status).expect("our own details");
    assert_eq!((told.reason.as_str(), told.code()), (reason::NOT_LEADER, Some("R001")));
    assert_eq!(told.metadata["leader_id"], "1");
    assert_eq!(told.metadata["leader_addr"], "10.0.0.1:7001");

    let error = ProposeError::Busy { node: 2, limit: "…".to_owned(), retry_after: Duration::from_millis(40) };
    let retry = Status::from(error).get_details_retry_info().expect("RetryInfo");
    assert_eq!(retry.retry_delay, Some(Duration::from_millis(40)));
}

#[test]
fn a_bad_request_names_its_field() {
    let status = Status::from(Malformed::new("entries[3].payload", "is missing"));
    assert_eq!(status.code(), Code::InvalidArgument);
    let bad = status.get_details_bad_request().expect("BadRequest");
    assert_eq!(bad.field_violations[0].field, "entries[3].payload");
    assert_eq!(status.message(), "entries[3].payload is missing");
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let error = ProposeError::Unknown { reason: "é".repeat(10_000) };
    assert!(carried(Status::from(error)).message().len() < 600);
}

#[test]
fn who_was_refused_knows_what_it_means() {
    for (wrong, means) in [
        (WrongPeer::Cluster { node: 1, cluster: 7, found: 8 }, Breach::WrongPeer),
        (WrongPeer::Addressee { node: 1, found: 2 }, Breach::WrongPeer),
        (WrongPeer::Sender { node: 1, expected: 2, found: 3 }, Breach::WrongPeer),
        (WrongPeer::OwnDisk { node: 1, incarnation: 7, known: 8 }, Breach::PeerWiped),
        (WrongPeer::Replaced { node: 1, peer: 2, known: 7, found: 8 }, Breach::Wiped),
        (WrongPeer::Removed { node: 1, peer: 2 }, Breach::Removed),
    ] {
        assert_eq!(wrong.to_the_refused(), means);
        assert_eq!(breach(&carried(Status::from(wrong))), means);
    }
    assert_eq!(breach(&Status::from(ProposeError::Unavailable { node: 1 })), Breach::Lost);
}
