//! The commands of the Redis protocol that the broker knows: one line each.

/// Commands and subcommands, each by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    AclUsers,
    AclWhoami,
    Auth,
    ClientCaching,
    ClientGetname,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    ClientSetinfo,
    ClientSetname,
    ClientTracking,
    /// What is refused without cluster mode.
    Cluster,
    Command,
    CommandCount,
    CommandDocs,
    CommandInfo,
    CommandList,
    ConfigGet,
    ConfigSet,
    /// A command that is only a group of subcommands.
    Container,
    Discard,
    Echo,
    Exec,
    /// Answered with OK: there is nothing to drop.
    Flush,
    /// The same, in a group.
    FlushScripts,
    Hello,
    /// The subcommands of a group.
    Help,
    Info,
    Multi,
    /// Answered with nil.
    NoValue,
    /// Answered with an empty list.
    NoneListed,
    /// Answered with an empty map.
    NoneMapped,
    /// Answered that no script runs.
    NotBusy,
    /// Answered with OK: there is nothing to do.
    Nothing,
    Ping,
    Psubscribe,
    Publish,
    PubsubChannels,
    PubsubNumpat,
    PubsubNumsub,
    PubsubShardchannels,
    PubsubShardnumsub,
    Punsubscribe,
    Quit,
    Reset,
    Role,
    Scan,
    ScriptExists,
    Select,
    SlowlogGet,
    Spublish,
    Ssubscribe,
    Subscribe,
    Sunsubscribe,
    Time,
    Unsubscribe,
    Unwatch,
    Watch,
    /// Answered with 0.
    Zero,
}

/// One command.
#[derive(Debug)]
pub(super) struct Spec {
    /// Name in lower case; a subcommand's name is that of its group, a `|` and its own.
    pub name: &'static str,
    /// A subcommand's further arguments, for HELP.
    pub usage: &'static str,
    pub verb: Verb,
    /// Number of arguments, its own words included; negative for at least as many.
    pub arity: i32,
    /// Redis's flags, separated by spaces.
    pub flags: &'static str,
    pub group: &'static str,
    pub summary: &'static str,
}

impl Spec {
    pub(super) fn takes(&self, arguments: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            arguments >= arity
        } else {
            arguments == arity
        }
    }

    /// Whether it is a command of its own rather than a subcommand.
    pub(super) fn is_top(&self) -> bool {
        !self.name.contains('|')
    }
}

/// Declares the commands, with the fields of [`Spec`] in their order.
macro_rules! commands {
    ($($name:literal $usage:literal $verb:ident $arity:literal $flags:literal $group:literal $summary:literal;)*) => {
        /// All commands, sorted by name.
        pub(super) static COMMANDS: &[Spec] = &[$(Spec {
            name: $name,
            usage: $usage,
            verb: Verb::$verb,
            arity: $arity,
            flags: $flags,
            group: $group,
            summary: $summary,
        },)*];
    };
}

commands! {
    "acl" "" Container -2 "" "server" "A group of commands about users.";
    "acl|help" "" Help 2 "loading stale" "server" "Lists these.";
    "acl|users" "" AclUsers 2 "admin noscript loading stale" "server" "Answers the names of all users: there is one.";
    "acl|whoami" "" AclWhoami 2 "noscript loading stale" "server" "Answers the connection's user.";
    "asking" "" Cluster 1 "fast" "cluster" "Refused: there is no cluster mode.";
    "auth" "" Auth -2 "noscript loading stale fast no_auth" "connection" "Authenticates the connection.";
    "client" "" Container -2 "" "connection" "A group of commands about connections.";
    "client|caching" "YES | NO" ClientCaching 3 "noscript loading stale" "connection" "Accepted where redis-server does; no key is tracked.";
    "client|getname" "" ClientGetname 2 "noscript loading stale" "connection" "Answers the connection's name.";
    "client|help" "" Help 2 "loading stale" "connection" "Lists these.";
    "client|id" "" ClientId 2 "noscript loading stale" "connection" "Answers the connection's number.";
    "client|info" "" ClientInfo 2 "noscript loading stale" "connection" "Describes this connection.";
    "client|kill" "<ip:port> | <option> <value> [...]" ClientKill -3 "admin noscript loading stale" "connection" "Closes connections.";
    "client|list" "[TYPE <type> | ID <id> [...]]" ClientList -2 "admin noscript loading stale" "connection" "Describes all connections of the node.";
    "client|no-evict" "ON | OFF" ClientNoEvict 3 "admin noscript loading stale" "connection" "Notes the wish to be spared by eviction.";
    "client|no-touch" "ON | OFF" ClientNoTouch 3 "noscript loading stale" "connection" "Accepted for compatibility; no key is touched.";
    "client|reply" "ON | OFF | SKIP" ClientReply 3 "noscript loading stale" "connection" "Turns replies on or off, or skips the next one.";
    "client|setinfo" "LIB-NAME <name> | LIB-VER <version>" ClientSetinfo 4 "noscript loading stale" "connection" "Names the client's library or its version.";
    "client|setname" "<name>" ClientSetname 3 "noscript loading stale" "connection" "Names the connection.";
    "client|tracking" "ON | OFF [OPTIN | OPTOUT | BCAST [PREFIX <prefix> ...]] [NOLOOP] [REDIRECT <id>]" ClientTracking -3 "noscript loading stale" "connection" "Accepted for compatibility; no key can change.";
    "cluster" "" Cluster -2 "" "cluster" "Refused: there is no cluster mode.";
    "command" "" Command -1 "loading stale" "server" "Describes all commands.";
    "command|count" "" CommandCount 2 "loading stale" "server" "Answers how many commands there are.";
    "command|docs" "[<command> ...]" CommandDocs -2 "loading stale" "server" "Documents commands.";
    "command|help" "" Help 2 "loading stale" "server" "Lists these.";
    "command|info" "[<command> ...]" CommandInfo -2 "loading stale" "server" "Describes some or all commands.";
    "command|list" "" CommandList -2 "loading stale" "server" "Lists the names of all commands.";
    "config" "" Container -2 "" "server" "A group of commands about the configuration.";
    "config|get" "<pattern> [...]" ConfigGet -3 "admin noscript loading stale" "server" "Answers configuration values.";
    "config|help" "" Help 2 "loading stale" "server" "Lists these.";
    "config|set" "<name> <value> [...]" ConfigSet -4 "admin noscript loading stale" "server" "Refused: values are set when the broker starts.";
    "dbsize" "" Zero 1 "readonly fast" "server" "Answers 0: no keys are kept yet.";
    "discard" "" Discard 1 "noscript loading stale fast" "transactions" "Drops a transaction.";
    "echo" "" Echo 2 "fast loading stale" "connection" "Answers its argument.";
    "exec" "" Exec 1 "noscript loading stale skip_slowlog" "transactions" "Carries a transaction out.";
    "flushall" "" Flush -1 "write" "server" "Answers OK: no keys are kept yet.";
    "flushdb" "" Flush -1 "write" "server" "Answers OK: no keys are kept yet.";
    "function" "" Container -2 "" "scripting" "A group of commands about functions, of which there are none.";
    "function|flush" "[ASYNC | SYNC]" FlushScripts -2 "write noscript" "scripting" "Answers OK: no functions are kept.";
    "function|help" "" Help 2 "loading stale" "scripting" "Lists these.";
    "function|kill" "" NotBusy 2 "noscript allow_busy" "scripting" "Answers that nothing is running.";
    "function|list" "[LIBRARYNAME <pattern>] [WITHCODE]" NoneListed -2 "noscript" "scripting" "Answers an empty list: no functions are kept.";
    "hello" "" Hello -1 "noscript loading stale fast no_auth" "connection" "Chooses the protocol's version.";
    "info" "" Info -1 "loading stale" "server" "Answers facts and counters of the node.";
    "latency" "" Container -2 "" "server" "A group of commands about latency events, of which none are kept.";
    "latency|help" "" Help 2 "loading stale" "server" "Lists these.";
    "latency|histogram" "[<command> ...]" NoneMapped -2 "admin noscript loading stale" "server" "Answers an empty map.";
    "latency|history" "<event>" NoneListed 3 "admin noscript loading stale" "server" "Answers an empty list.";
    "latency|latest" "" NoneListed 2 "admin noscript loading stale" "server" "Answers an empty list.";
    "latency|reset" "[<event> ...]" Zero -2 "admin noscript loading stale" "server" "Answers 0: no events are kept.";
    "memory" "" Container -2 "" "server" "A group of commands about memory.";
    "memory|help" "" Help 2 "loading stale" "server" "Lists these.";
    "memory|purge" "" Nothing 2 "" "server" "Answers OK: memory is given back without being asked for.";
    "memory|usage" "<key> [SAMPLES <count>]" NoValue -3 "readonly" "server" "Answers nil: no keys are kept yet.";
    "module" "" Container -2 "" "server" "A group of commands about modules, of which there are none.";
    "module|help" "" Help 2 "loading stale" "server" "Lists these.";
    "module|list" "" NoneListed 2 "admin noscript" "server" "Answers an empty list.";
    "multi" "" Multi 1 "noscript loading stale fast" "transactions" "Begins a transaction.";
    "ping" "" Ping -1 "fast" "connection" "Answers PONG, or its argument.";
    "psubscribe" "" Psubscribe -2 "pubsub noscript loading stale" "pubsub" "Subscribes to patterns.";
    "publish" "" Publish 3 "pubsub loading stale fast" "pubsub" "Publishes an event on a channel.";
    "pubsub" "" Container -2 "" "pubsub" "A group of commands about subscriptions.";
    "pubsub|channels" "[<pattern>]" PubsubChannels -2 "pubsub loading stale" "pubsub" "Lists the channels that have subscribers.";
    "pubsub|help" "" Help 2 "loading stale" "pubsub" "Lists these.";
    "pubsub|numpat" "" PubsubNumpat 2 "pubsub loading stale" "pubsub" "Answers how many patterns have subscribers.";
    "pubsub|numsub" "[<channel> ...]" PubsubNumsub -2 "pubsub loading stale" "pubsub" "Answers how many subscribers channels have.";
    "pubsub|shardchannels" "[<pattern>]" PubsubShardchannels -2 "pubsub loading stale" "pubsub" "Lists the shard channels that have subscribers.";
    "pubsub|shardnumsub" "[<channel> ...]" PubsubShardnumsub -2 "pubsub loading stale" "pubsub" "Answers how many subscribers shard channels have.";
    "punsubscribe" "" Punsubscribe -1 "pubsub noscript loading stale" "pubsub" "Unsubscribes from patterns, or from all.";
    "quit" "" Quit -1 "noscript loading stale fast no_auth" "connection" "Closes the connection.";
    "readonly" "" Cluster 1 "loading stale fast" "cluster" "Refused: there is no cluster mode.";
    "readwrite" "" Cluster 1 "loading stale fast" "cluster" "Refused: there is no cluster mode.";
    "reset" "" Reset 1 "noscript loading stale fast no_auth" "connection" "Puts the connection back to its first state.";
    "role" "" Role 1 "noscript loading stale fast" "server" "Answers the node's role in replication.";
    "scan" "" Scan -2 "readonly" "generic" "Answers that there are no keys: none are kept yet.";
    "script" "" Container -2 "" "scripting" "A group of commands about scripts, of which there are none.";
    "script|exists" "<sha1> [...]" ScriptExists -3 "noscript" "scripting" "Answers 0 for each: no scripts are kept.";
    "script|flush" "[ASYNC | SYNC]" FlushScripts -2 "noscript" "scripting" "Answers OK: no scripts are kept.";
    "script|help" "" Help 2 "loading stale" "scripting" "Lists these.";
    "script|kill" "" NotBusy 2 "noscript allow_busy" "scripting" "Answers that nothing is running.";
    "select" "" Select 2 "loading stale fast" "connection" "Selects a database; topics are the same in all.";
    "slowlog" "" Container -2 "" "server" "A group of commands about slow commands, of which no log is kept.";
    "slowlog|get" "[<count>]" SlowlogGet -2 "admin noscript loading stale" "server" "Answers an empty list.";
    "slowlog|help" "" Help 2 "loading stale" "server" "Lists these.";
    "slowlog|len" "" Zero 2 "admin noscript loading stale" "server" "Answers 0.";
    "slowlog|reset" "" Nothing 2 "admin noscript loading stale" "server" "Answers OK.";
    "spublish" "" Spublish 3 "pubsub loading stale fast" "pubsub" "Publishes an event on a shard channel.";
    "ssubscribe" "" Ssubscribe -2 "pubsub noscript loading stale" "pubsub" "Subscribes to shard channels.";
    "subscribe" "" Subscribe -2 "pubsub noscript loading stale" "pubsub" "Subscribes to channels.";
    "sunsubscribe" "" Sunsubscribe -1 "pubsub noscript loading stale" "pubsub" "Unsubscribes from shard channels, or from all.";
    "time" "" Time 1 "loading stale fast" "server" "Answers the time of day.";
    "unsubscribe" "" Unsubscribe -1 "pubsub noscript loading stale" "pubsub" "Unsubscribes from channels, or from all.";
    "unwatch" "" Unwatch 1 "noscript loading stale fast" "transactions" "Accepted for compatibility; no key is watched.";
    "watch" "" Watch -2 "noscript loading stale fast" "transactions" "Accepted for compatibility; no key can change.";
}

/// The subcommands of a group.
pub(super) fn subcommands(group: &Spec) -> impl Iterator<Item = &'static Spec> {
    let name = group.name;
    COMMANDS.iter().filter(move |spec| {
        spec.name
            .split_once('|')
            .is_some_and(|(container, _)| container == name)
    })
}

/// Longest name in the table, with room to spare; a longer word is no command.
const NAME_BYTES_MAX: usize = 24;

/// Finds a command by its name in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    find_joined(name, None)
}

/// Finds a subcommand of a group.
pub(super) fn find_subcommand(group: &Spec, name: &[u8]) -> Option<&'static Spec> {
    find_joined(group.name.as_bytes(), Some(name))
}

fn find_joined(name: &[u8], subcommand: Option<&[u8]>) -> Option<&'static Spec> {
    let mut key = [0u8; NAME_BYTES_MAX];
    let mut length = 0;
    let parts = [Some(name), subcommand.map(|_| &b"|"[..]), subcommand];
    for part in parts.into_iter().flatten() {
        let room = key.get_mut(length..length + part.len())?;
        room.copy_from_slice(part);
        room.make_ascii_lowercase();
        length += part.len();
    }
    let key = &key[..length];
    let is_top = subcommand.is_none();
    let place = COMMANDS
        .binary_search_by(|spec| spec.name.as_bytes().cmp(key))
        .ok()?;
    // `CLIENT|ID` as one word is no command.
    (COMMANDS[place].is_top() == is_top).then(|| &COMMANDS[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in COMMANDS {
            let found = match spec.name.split_once('|') {
                None => find(spec.name.to_uppercase().as_bytes()),
                Some((group, name)) => {
                    find_subcommand(find(group.as_bytes()).expect("the group"), name.as_bytes())
                }
            };
            assert_eq!(found.map(|found| found.name), Some(spec.name));
        }
        assert!(find(b"client|id").is_none());
        assert!(find(&[b'x'; 1000]).is_none());
    }
}
