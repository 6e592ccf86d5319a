//! Several real brokers as one tree: whoever publishes on one is heard on all, whichever protocol either speaks, and it
//! stays so when nodes and connections end.
//!
//! Runs with one shard, with two, and with both in one tree. The only times that count are those the broker promises; all
//! others are deadlines against hanging. Start at `tree/nodes.rs`.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;

#[path = "tree/busy.rs"]
mod busy;
#[path = "tree/connect_urls.rs"]
mod connect_urls;
#[path = "tree/ending.rs"]
mod ending;
#[path = "tree/fake.rs"]
mod fake;
#[path = "tree/faults.rs"]
mod faults;
#[path = "tree/groups.rs"]
mod groups;
#[path = "tree/hostile.rs"]
mod hostile;
#[path = "tree/lanes.rs"]
mod lanes;
#[path = "tree/nodes.rs"]
mod nodes;
#[path = "tree/requests.rs"]
mod requests;
#[path = "tree/spread.rs"]
mod spread;
#[path = "tree/targets.rs"]
mod targets;
