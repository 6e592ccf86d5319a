//! Topics that say which nodes an event is for, and what becomes of it there.
//!
//! All begin with `$`, so every protocol that can publish can use them: `$all`, `$info`, `$to:oslo:news`, `$near:jobs`,
//! `$trace:news`. Any other name with `$` is a topic like others. Owns what they mean and which are refused; must not know nodes or who they are. Subscribers see the
//! topic that stands behind the last colon of these. Start at [`Scope::parse`].

use crate::error::ErrorCode;
use crate::limits::{NODE_NAME_BYTES_MAX, PATH_NUMBERS_MAX};
use crate::topic;
use std::fmt;

/// The topic that reaches every client.
pub const ALL: &[u8] = b"$all";

/// The topic that every node answers to itself.
pub const INFO: &[u8] = b"$info";

/// What stands before the topic of an event that is traced.
pub const TRACE: &[u8] = b"$trace:";
const NEAR: &[u8] = b"$near:";
const TO: &[u8] = b"$to:";
/// What a tag is preceded by, where nodes are meant that have it.
pub const TAG: &[u8] = b"tag=";

/// What a group of nodes is preceded by, where one of them is meant.
pub const GROUP: &[u8] = b"group=";

/// What begins the names that the broker keeps for the features of NATS that they belong to.
const KEPT: [&[u8]; 4] = [b"$JS.", b"$KV.", b"$O.", b"$SYS.REQ."];

/// What stands before the address where a node's NATS clients connect, among the names of the node. No topic can name it.
pub const NATS_ADDRESS: &[u8] = b"nats=";

/// Who gets an event, on the nodes that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Those who subscribed to the topic.
    Subscribers,
    /// Every client, subscribed or not.
    All,
    /// Nobody: the node itself answers.
    Node,
}

/// What a topic says beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Nobody gets the event; each node on its way reports that it came by.
    pub is_traced: bool,
    /// Groups take the nearest member instead of turns among all nodes.
    pub is_near: bool,
    /// The nodes that it is for; all, if it does not say.
    pub to: Option<Targets<'a>>,
    /// Who gets it there.
    pub audience: Audience,
    /// What subscribers see.
    pub name: &'a [u8],
}

/// Why a topic that begins with `$` cannot be published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeError {
    /// It is one of the broker's own, or one that says more stands behind another.
    Reserved,
    /// Nothing stands behind the targets: a colon is missing.
    NoTopic,
    /// A target is no name, place, `tag=` or `group=`; says which one, counted from 1.
    Target(usize),
    /// `group=` stands with other targets: one node gets the event, so that must be said alone.
    GroupNotAlone,
}

impl ScopeError {
    /// Its stable code.
    pub fn code(self) -> ErrorCode {
        match self {
            ScopeError::Reserved => ErrorCode::TopicReserved,
            _ => ErrorCode::TopicInvalid,
        }
    }
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScopeError::Reserved => f.write_str(
                "names that begin with $JS., $KV., $O. or $SYS.REQ. are the broker's own; $trace: stands first, then $near: or $to:",
            ),
            ScopeError::NoTopic => {
                f.write_str("the topic is missing: write $to:oslo:news for topic news on node oslo")
            }
            ScopeError::Target(which) => write!(
                f,
                "target {which} is no node: write a name, a place such as /3/1, tag=edge, group=web or *"
            ),
            ScopeError::GroupNotAlone => f.write_str(
                "group= means one node, so it stands alone: publish twice for more targets",
            ),
        }
    }
}

impl std::error::Error for ScopeError {}

impl<'a> Scope<'a> {
    /// What a topic says. Cost: one comparison for those that do not begin with `$`.
    pub fn parse(topic: &'a [u8]) -> Result<Scope<'a>, ScopeError> {
        let mut scope = Scope {
            is_traced: false,
            is_near: false,
            to: None,
            audience: Audience::Subscribers,
            name: topic,
        };
        if !topic::is_reserved(topic) {
            return Ok(scope);
        }
        if let Some(rest) = scope.name.strip_prefix(TRACE) {
            (scope.is_traced, scope.name) = (true, rest);
        }
        if let Some(rest) = scope.name.strip_prefix(NEAR) {
            (scope.is_near, scope.name) = (true, rest);
        } else if let Some(rest) = scope.name.strip_prefix(TO) {
            let colon = memchr::memchr(b':', rest).ok_or(ScopeError::NoTopic)?;
            let targets = Targets(&rest[..colon]);
            targets.check()?;
            (scope.to, scope.name) = (Some(targets), &rest[colon + 1..]);
        }
        scope.audience = match scope.name {
            ALL => Audience::All,
            INFO => Audience::Node,
            name if is_kept(name) => return Err(ScopeError::Reserved),
            _ => Audience::Subscribers,
        };
        Ok(scope)
    }
}

fn is_kept(name: &[u8]) -> bool {
    let prefixes = KEPT.iter().chain(&[TRACE, NEAR, TO]);
    prefixes.copied().any(|prefix| name.starts_with(prefix))
}

/// The nodes that an event is for: each that any of them means. Checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets<'a>(&'a [u8]);

/// Which nodes a target means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Every node.
    Every,
    /// The one that stands at this place of the tree, written as `/3/1`.
    Place(&'a str),
    /// Each that is called so, by its name or, as `tag=edge`, by a tag.
    Named(&'a [u8]),
    /// One of those of a group, in turn; as `group=web`.
    OneOf(&'a [u8]),
}

impl<'a> Targets<'a> {
    /// Each of them, as they stand.
    pub fn iter(self) -> impl Iterator<Item = Target<'a>> {
        self.0.split(|&byte| byte == b',').filter_map(target)
    }

    fn check(self) -> Result<(), ScopeError> {
        let parts = self.0.split(|&byte| byte == b',');
        for (place, part) in parts.enumerate() {
            match target(part) {
                None => return Err(ScopeError::Target(place + 1)),
                Some(Target::OneOf(_)) if part.len() < self.0.len() => {
                    return Err(ScopeError::GroupNotAlone);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn target(part: &[u8]) -> Option<Target<'_>> {
    if part == b"*" {
        return Some(Target::Every);
    }
    if part.first() == Some(&b'/') {
        let text = std::str::from_utf8(part).ok()?;
        return is_place(text).then_some(Target::Place(text));
    }
    let (name, target) = match (part.strip_prefix(TAG), part.strip_prefix(GROUP)) {
        (Some(tag), _) => (tag, Target::Named(part)),
        (_, Some(group)) => (group, Target::OneOf(part)),
        _ => (part, Target::Named(part)),
    };
    is_node_name(name).then_some(target)
}

/// Whether a node, tag or group can be called so: 1 to 64 letters, digits, `.`, `_` and `-`.
pub fn is_node_name(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=NODE_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_plain)
}

fn is_place(text: &str) -> bool {
    let is_number = |part: &str| {
        let is_plain = part.bytes().all(|byte| byte.is_ascii_digit());
        let has_one_form = part.len() == 1 || !part.starts_with('0');
        is_plain && has_one_form && part.parse::<u8>().is_ok()
    };
    let numbers = text[1..].split('/');
    text == "/" || (numbers.clone().count() <= PATH_NUMBERS_MAX && numbers.clone().all(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(topic: &str) -> Scope<'_> {
        Scope::parse(topic.as_bytes()).unwrap_or_else(|error| panic!("{topic}: {error}"))
    }

    fn targets(topic: &str) -> Vec<Target<'_>> {
        parsed(topic).to.expect("targets").iter().collect()
    }

    #[test]
    fn usual_topics_say_nothing_else() {
        for topic in [
            "",
            "news",
            "a.b.c",
            "to:oslo:news",
            "a$b",
            ".$to:x:y",
            "$",
            "$alles",
            "$to",
            "$kv.a",
            "$JS",
            "$SYS/broker/uptime",
            "$SRV.PING",
        ] {
            let scope = parsed(topic);
            assert_eq!(scope.name, topic.as_bytes());
            assert!(!scope.is_traced && !scope.is_near && scope.to.is_none());
            assert_eq!(scope.audience, Audience::Subscribers);
        }
    }

    #[test]
    fn targets_are_names_places_tags_groups_and_every_node() {
        assert_eq!(targets("$to:oslo:news"), [Target::Named(b"oslo")]);
        assert_eq!(targets("$to:/:news"), [Target::Place("/")]);
        assert_eq!(
            targets("$to:eu.oslo-1,/3/255,tag=edge,*:a.b:c"),
            [
                Target::Named(b"eu.oslo-1"),
                Target::Place("/3/255"),
                Target::Named(b"tag=edge"),
                Target::Every,
            ]
        );
        assert_eq!(targets("$to:group=web:x"), [Target::OneOf(b"group=web")]);
        assert_eq!(parsed("$to:eu.oslo-1,/3:a.b:c").name, b"a.b:c");
        assert_eq!(parsed("$to:oslo:").name, b"");
    }

    #[test]
    fn what_becomes_of_it_stands_before_the_targets() {
        let scope = parsed("$trace:$to:/3:news");
        assert!(scope.is_traced && scope.to.is_some());
        assert_eq!(scope.name, b"news");
        assert!(parsed("$near:jobs").is_near);
        assert!(parsed("$trace:$near:jobs").is_near);
        assert_eq!(parsed("$near:$SRV.PING").name, b"$SRV.PING");
        assert_eq!(parsed("$to:oslo:$SRV.PING").name, b"$SRV.PING");
        assert_eq!(parsed("$all").audience, Audience::All);
        assert_eq!(parsed("$to:oslo:$all").audience, Audience::All);
        assert_eq!(parsed("$info").audience, Audience::Node);
        assert_eq!(parsed("$to:tag=edge:$info").audience, Audience::Node);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = format!("$to:{}:x", "n".repeat(65));
        for (topic, error) in [
            ("$JS.API.INFO", ScopeError::Reserved),
            ("$KV.a.b", ScopeError::Reserved),
            ("$O.", ScopeError::Reserved),
            ("$SYS.REQ.USER.INFO", ScopeError::Reserved),
            ("$near:$JS.API.INFO", ScopeError::Reserved),
            ("$to:oslo", ScopeError::NoTopic),
            ("$to::news", ScopeError::Target(1)),
            ("$to:oslo,:news", ScopeError::Target(2)),
            ("$to:os lo:news", ScopeError::Target(1)),
            ("$to:/3/:news", ScopeError::Target(1)),
            ("$to:/256:news", ScopeError::Target(1)),
            ("$to:/01:news", ScopeError::Target(1)),
            ("$to:tag=:news", ScopeError::Target(1)),
            ("$to:group=a,b:news", ScopeError::GroupNotAlone),
            ("$to:b,group=a:news", ScopeError::GroupNotAlone),
            ("$to:oslo:$to:bergen:news", ScopeError::Reserved),
            ("$near:$trace:news", ScopeError::Reserved),
            ("$near:$to:oslo:news", ScopeError::Reserved),
            (&long, ScopeError::Target(1)),
        ] {
            assert_eq!(Scope::parse(topic.as_bytes()), Err(error), "{topic}");
        }
    }

    #[test]
    fn a_place_may_be_as_deep_as_places_are() {
        let deepest = format!("$to:{}:x", "/1".repeat(255));
        assert!(Scope::parse(deepest.as_bytes()).is_ok());
        let deeper = format!("$to:{}:x", "/1".repeat(256));
        assert_eq!(Scope::parse(deeper.as_bytes()), Err(ScopeError::Target(1)));
    }
}
