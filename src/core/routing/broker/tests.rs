//! The broker's table against what would be found anew.

use super::*;
use proptest::prelude::*;

fn member(conn: u32, number: u32) -> Member {
    Member {
        conn: ConnId(conn),
        number,
    }
}

#[test]
fn a_connections_table_shrinks_with_its_subscriptions() {
    let mut broker = Broker::new(ShardId(0), 1, &Limits::default());
    let member = Member {
        conn: ConnId(0),
        number: 0,
    };
    let names: Vec<String> = (0..20_000).map(|number| format!("t.{number}")).collect();
    let of = |place: usize| Filter::plain(FilterKind::Topic, names[place].as_bytes());
    for place in 0..names.len() {
        assert_eq!(broker.subscribe(member, Form::Native, of(place)), Ok(true));
    }
    let full = broker.memberships[0].places.capacity();
    for place in 10..names.len() {
        assert!(broker.unsubscribe(member, Form::Native, of(place)));
    }
    let left = &broker.memberships[0];
    assert!(left.places.capacity() < full / 8);
    assert_eq!((left.places.len(), left.topics), (10, 10));
}

#[test]
fn several_members_of_a_group_leave_with_their_connection() {
    let mut broker = Broker::new(ShardId(0), 1, &Limits::default());
    let filter = Filter {
        kind: FilterKind::Topic,
        name: b"jobs",
        group: b"g",
    };
    // Each removal moves the last member into the gap; it may belong to the same connection or to another.
    let joining = [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2), (0, 4)];
    for (conn, number) in joining {
        let joined = broker.subscribe(member(conn, number), Form::Native, filter);
        assert_eq!(joined, Ok(true));
    }
    broker.leave(ConnId(0), Form::Native);
    assert_eq!(
        (broker.count_all(ConnId(0)), broker.subscriptions()),
        (0, 2)
    );
    let mut route = Route::default();
    broker.route(Space::Topic, b"jobs", &mut route);
    let turns = [(); 4].map(|()| broker.take_member_turn(&route.groups[0]));
    let mut turns = turns.map(|turn| turn.map(|(_, member)| member));
    turns.sort_unstable_by_key(|member| member.map(|member| member.number));
    let expected = [1, 1, 2, 2].map(|number| Some(member(1, number)));
    assert_eq!(turns, expected);
    assert!(broker.unsubscribe(member(1, 1), Form::Native, filter));
    assert!(broker.unsubscribe(member(1, 2), Form::Native, filter));
    assert_eq!(broker.subscriptions(), 0);
}

/// A step of a random history that may change routes.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(u32, Wanted),
    Unsubscribe(u32, Wanted),
    Leave(u32),
    BeginToLeave(u32),
    ChangeForm(u32),
    TakeChanges,
    OtherShard(Wanted, u32),
    Link(u16, (bool, bool), Wanted, u32),
    ForgetLink(u16),
    CallNode,
}

#[derive(Clone, Debug)]
struct Wanted {
    kind: FilterKind,
    name: &'static str,
    group: &'static str,
}

impl Wanted {
    fn filter(&self) -> Filter<'_> {
        Filter {
            kind: self.kind,
            name: self.name.as_bytes(),
            group: self.group.as_bytes(),
        }
    }

    fn changed(&self, listeners: u32) -> [Change; 1] {
        [Change {
            kind: self.kind,
            name: self.name.as_bytes().into(),
            group: self.group.as_bytes().into(),
            listeners,
        }]
    }
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let exact = prop_oneof![
        Just((FilterKind::Topic, "a")),
        Just((FilterKind::Topic, "a.b")),
        Just((FilterKind::Topic, "c")),
        Just((FilterKind::ShardChannel, "a")),
    ];
    let other = prop_oneof![
        Just((FilterKind::Wildcard, "a.*")),
        Just((FilterKind::Wildcard, ">")),
        Just((FilterKind::Glob, "a*")),
    ];
    let kind = prop_oneof![4 => exact, 1 => other];
    let group = prop_oneof![2 => Just(""), 1 => Just("g")];
    (kind, group).prop_map(|((kind, name), group)| {
        let group = if kind == FilterKind::Glob { "" } else { group };
        Wanted { kind, name, group }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let conn = 0u32..4;
    prop_oneof![
        6 => (conn.clone(), any_wanted()).prop_map(|(conn, wanted)| Step::Subscribe(conn, wanted)),
        4 => (conn.clone(), any_wanted()).prop_map(|(conn, wanted)| Step::Unsubscribe(conn, wanted)),
        1 => conn.clone().prop_map(Step::Leave),
        1 => conn.clone().prop_map(Step::BeginToLeave),
        1 => conn.prop_map(Step::ChangeForm),
        4 => Just(Step::TakeChanges),
        4 => (any_wanted(), 0u32..3).prop_map(|(wanted, count)| Step::OtherShard(wanted, count)),
        3 => (0u16..2, (any::<bool>(), any::<bool>()), any_wanted(), 0u32..3)
            .prop_map(|(link, flags, wanted, count)| Step::Link(link, flags, wanted, count)),
        1 => (0u16..2).prop_map(Step::ForgetLink),
        1 => Just(Step::CallNode),
    ]
}

fn carry_out(broker: &mut Broker, forms: &mut [Form; 4], step: &Step) {
    let is_leaving = |broker: &Broker, conn: u32| {
        let membership = broker.memberships.get(conn as usize);
        membership.is_some_and(|membership| membership.leaving)
    };
    match step {
        // A leaving connection must not change its subscriptions.
        Step::Subscribe(conn, _) | Step::Unsubscribe(conn, _) | Step::BeginToLeave(conn)
            if is_leaving(broker, *conn) => {}
        Step::Subscribe(conn, wanted) => {
            let form = forms[*conn as usize];
            let subscribed = broker.subscribe(member(*conn, 0), form, wanted.filter());
            assert!(subscribed.is_ok());
        }
        Step::Unsubscribe(conn, wanted) => {
            broker.unsubscribe(member(*conn, 0), forms[*conn as usize], wanted.filter());
        }
        Step::BeginToLeave(conn) => {
            broker.begin_to_leave(ConnId(*conn), forms[*conn as usize]);
        }
        Step::Leave(conn) => broker.leave(ConnId(*conn), forms[*conn as usize]),
        Step::ChangeForm(conn) => {
            let form = &mut forms[*conn as usize];
            let to = match form {
                Form::Resp2 => Form::Resp3,
                _ => Form::Resp2,
            };
            broker.change_form(ConnId(*conn), *form, to);
            *form = to;
        }
        Step::TakeChanges => drop(broker.take_changes()),
        Step::OtherShard(wanted, count) => {
            broker.apply_changes(ShardId(1), &wanted.changed(*count));
        }
        Step::Link(link, flags, wanted, count) => {
            broker.apply_interest(LinkId(*link), *flags, &wanted.changed(*count));
        }
        Step::ForgetLink(link) => broker.forget_wanted(LinkId(*link)),
        Step::CallNode => broker.call_node(&[b"name=n".as_slice().into()]),
    }
}

/// All fields of a route that delivery reads.
fn contents(route: &Route) -> impl PartialEq + std::fmt::Debug + use<> {
    let groups = route.groups.iter();
    let groups = groups.map(|group| (group.group, group.entries.clone(), group.weights.clone()));
    (
        (route.filters.clone(), route.receivers, route.subscriptions),
        (
            route.shards.clone(),
            route.links.clone(),
            route.targets.clone(),
        ),
        groups.collect::<Vec<_>>(),
    )
}

proptest! {
    /// A route that counts as current equals a newly computed one, after any history.
    #[test]
    fn a_current_route_is_the_one_that_would_be_found(
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let mut broker = Broker::new(ShardId(0), 1, &Limits::default());
        let mut forms = [Form::Resp2; 4];
        let topics: [(Space, &[u8]); 6] = [
            (Space::Topic, b"a"),
            (Space::Topic, b"a.b"),
            (Space::Topic, b"c"),
            (Space::ShardChannel, b"a"),
            (Space::Topic, b"$to:name=n:a"),
            (Space::Topic, b"$near:a.b"),
        ];
        let mut cached: [Route; 6] = Default::default();
        for step in &steps {
            carry_out(&mut broker, &mut forms, step);
            for (route, (space, topic)) in cached.iter_mut().zip(topics) {
                let mut found = Route::default();
                broker.route(space, topic, &mut found);
                if route.fits(&broker, space, topic) {
                    prop_assert_eq!(contents(route), contents(&found), "{:?}", topic);
                }
                *route = found;
            }
        }
    }
}

#[test]
fn churn_on_one_topic_leaves_the_routes_of_others() {
    let mut broker = Broker::new(ShardId(0), 1, &Limits::default());
    let names: Vec<String> = (0..1_000).map(|number| format!("topic.{number}")).collect();
    let mut routes: Vec<Route> = names.iter().map(|_| Route::default()).collect();
    for (name, route) in names.iter().zip(&mut routes) {
        broker.route(Space::Topic, name.as_bytes(), route);
    }
    let stale = |broker: &Broker| {
        let routes = names.iter().zip(&routes);
        let stale =
            routes.filter(|(name, route)| !route.fits(broker, Space::Topic, name.as_bytes()));
        stale.map(|(name, _)| &name[..]).collect::<Vec<&str>>()
    };
    let churn = |broker: &mut Broker, kind, name: &[u8]| {
        let filter = Filter::plain(kind, name);
        assert_eq!(
            broker.subscribe(member(0, 0), Form::Native, filter),
            Ok(true)
        );
        assert!(broker.unsubscribe(member(0, 0), Form::Native, filter));
        let changed = Change {
            kind,
            name: name.into(),
            group: b"g".as_slice().into(),
            listeners: 1,
        };
        broker.apply_changes(ShardId(1), &[changed]);
    };
    churn(&mut broker, FilterKind::Topic, b"topic.7");
    let found = stale(&broker);
    assert!(found.contains(&"topic.7") && found.len() <= 3, "{found:?}");
    churn(&mut broker, FilterKind::ShardChannel, b"topic.8");
    assert!(stale(&broker).len() <= 6, "{found:?}");
    churn(&mut broker, FilterKind::Wildcard, b"another.*");
    assert_eq!(stale(&broker).len(), names.len());
}

#[test]
fn what_a_worker_keeps_is_announced_to_links_and_counted_nowhere() {
    let mut broker = Broker::new(ShardId(0), 1, &Limits::default());
    broker.tell_links(true);
    let listener = Listener {
        link: LinkId(0),
        everything: false,
    };
    let told = |broker: &mut Broker| {
        let mut told = Vec::new();
        broker.take_link_changes(&[listener], usize::MAX, |_, change| told.push(change));
        told
    };
    let of = |listeners| Change {
        kind: FilterKind::Wildcard,
        name: b"t.>".as_slice().into(),
        group: Box::default(),
        listeners,
    };
    let mut route = Route::default();
    broker.apply_keeping(ShardId(1), &[of(1)]);
    assert_eq!(told(&mut broker), [of(1)]);
    broker.route(Space::Topic, b"t.a", &mut route);
    assert_eq!((route.keeper, route.subscriptions), (Some(ShardId(1)), 0));
    assert_eq!(route.targets, [ShardId(1)]);
    assert!(route.is_heard_beyond());
    let filter = Filter::plain(FilterKind::Wildcard, b"t.>");
    assert_eq!((broker.listeners(filter), broker.active_globs()), (0, 0));
    // Subscribers come and go beside it: links hear of no change.
    for comes in [true, false] {
        match comes {
            true => assert!(broker.subscribe(member(0, 1), Form::Native, filter).is_ok()),
            false => assert!(broker.unsubscribe(member(0, 1), Form::Native, filter)),
        }
        broker.route(Space::Topic, b"t.a", &mut route);
        assert_eq!(
            (route.subscriptions, route.shards.len()),
            (u64::from(comes), 1)
        );
        broker.take_changes();
        assert_eq!(told(&mut broker), []);
    }
    broker.route(Space::ShardChannel, b"t.a", &mut route);
    assert_eq!(route.keeper, None);
    // A filter that goes from one worker to another is kept by one of them all the time.
    broker.apply_keeping(ShardId(2), &[of(1)]);
    broker.apply_keeping(ShardId(1), &[of(0)]);
    broker.route(Space::Topic, b"t.a", &mut route);
    assert_eq!(
        (route.keeper, told(&mut broker)),
        (Some(ShardId(2)), vec![])
    );
    broker.apply_keeping(ShardId(2), &[of(0)]);
    assert_eq!(told(&mut broker), [of(0)]);
    assert_eq!(broker.filters().len(), 0, "nothing is left of it");
    assert!(!route.is_current(&broker));
}
