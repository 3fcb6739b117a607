//! What each family tells an operator: the text that stands beside its name.

/// The help of a family, by its name without `raft_` and without its unit.
pub(super) fn help(name: &str) -> &'static str {
    match name {
        "term" => {
            "The latest term seen. It grows with each election: fast growth is a cluster that cannot keep a \
             leader"
        }
        "is_leader" => {
            "1 if this node leads. Over all nodes the sum is 1; more than one for long is a partition, none \
             an outage of writes"
        }
        "has_leader" => "1 if this node knows who leads. 0 for longer than an election: look for unreachable nodes",
        "leader_changes" => {
            "Leaders that this node has learnt of. More than one at a time nobody restarted a node: slow \
             disks, an overloaded machine or a bad network"
        }
        "last_index" => "The last entry of the log. Its rate on the leader is the rate of writes",
        "commit_index" => {
            "The last entry that a majority has. Far behind the last one: followers or their disks are slow"
        }
        "applied_index" => {
            "The last entry that the state machine has applied. Far behind the commit index: applying is what \
             is slow"
        }
        "snapshot_index" => {
            "The last entry in the snapshot; 0: there is none. What the last entry is ahead of it is read \
             again at a start"
        }
        "voters" => "Servers that vote, as this node's log has it. A majority of them must run",
        "trouble" => {
            "1 if this keeps the node from its work: disk_full needs room (R016), wiped a replacement (R007), \
             removed a stop (R008)"
        }
        "peer_lag_entries" => {
            "On the leader: entries that are not known to be on that peer's disk. One that grows is a peer \
             that is down or too slow; past the snapshot it is sent that"
        }
        "peer_reachable" => {
            "On the leader: 1 if that peer answered lately. 0: look at its process and at the network between"
        }
        "build" => "The program, and which node of which cluster it is",
        "proposals" => {
            "Commands answered here, by result; forwarded ones are counted as applied at the leader. unknown \
             may have been applied; busy is overload"
        }
        "proposal" => {
            "From a command's admission to its answer, on the leader that applied it: what a client's write \
             takes, without the network to the client"
        }
        "pending_calls" => "Writes and reads that wait for their answers. Near the limit the next ones are told busy",
        "pending_calls_limit" => "The setting max_pending",
        "log_fsync" => {
            "Time to make a batch of the log durable. A slow disk shows here first: above the heartbeat it \
             costs the leadership"
        }
        "snapshot" => {
            "Time to write a snapshot to disk, most of which it rests so that writes go on. It grows with the \
             state"
        }
        "actor_mailbox_depth" => {
            "Messages that wait in the actor's mailbox. One that stays high is the actor that the others wait \
             for"
        }
        "actor_running" => "1 if the actor runs. 0 for long: its supervisor has given up, or the node stops",
        "actor_restarts" => {
            "Lives after the first. It heals by itself; a rate that does not end is a bug or a bad disk, and \
             the log says which"
        }
        "actor_mailbox_wait" => {
            "Time from sending to handling. Long waits with short handling are a runtime without a free core; \
             with long handling, that actor is the bottleneck"
        }
        "actor_handle" => {
            "Time to handle a message, what was awaited included. The rate of its sum is the share of a core, \
             or of the disk, that the message takes"
        }
        "recorder" => {
            "Memory that the flight recorder has taken so far. It never gives any back and never exceeds the \
             limit"
        }
        "recorder_limit" => "Memory that the flight recorder takes at most",
        "recorder_events" => "Messages recorded, those that the ring has forgotten included",
        "recorder_lost_events" => {
            "Messages that were handled and could not be recorded, because the ring came round meanwhile. \
             They are missing in traces"
        }
        _ => unreachable!("{name} has no help"),
    }
}
