//! Frames of the JSON protocol and what they are answered by.

/// A frame, and its answers: `ok ID COUNT` and `error ID CODE`, with `-` for an error without an id.
pub type Case = (&'static str, &'static [&'static str]);

/// One after the other on one connection, so that counts grow.
pub const IN_ORDER: &[Case] = &[
    (r#"{"op":"ping","id":1}"#, &["ok 1 0"]),
    (r#"{"op":"ping"}"#, &[]),
    (r#"{"id":2,"op":"ping"}"#, &["ok 2 0"]),
    (r#" { "op" : "ping" , "id" : 3 } "#, &["ok 3 0"]),
    ("{\t\"op\":\r\"ping\",\"id\":4}", &["ok 4 0"]),
    (r#"{"op":"p\u0069ng","id":5}"#, &["ok 5 0"]),
    (r#"{"\u006fp":"ping","id":6}"#, &["ok 6 0"]),
    (
        r#"{"op":"ping","id":9007199254740990}"#,
        &["ok 9007199254740990 0"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.other","id":10}"#,
        &["ok 10 1"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.other","id":11}"#,
        &["ok 11 1"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.*.x","id":12}"#,
        &["ok 12 2"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.\u00e9\ud83d\udc4d"}"#,
        &[],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.g","group":"g","member":1,"id":13}"#,
        &["ok 13 4"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.g","group":"g","member":4294967295,"id":14}"#,
        &["ok 14 5"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.g","group":"g","member":1,"id":15}"#,
        &["ok 15 5"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases.g","group":"g","member":0,"id":16}"#,
        &["ok 16 6"],
    ),
    (
        r#"{"op":"unsubscribe","filter":"cases.g","group":"g","member":2,"id":17}"#,
        &["ok 17 6"],
    ),
    (
        r#"{"op":"unsubscribe","filter":"cases.g","id":18}"#,
        &["ok 18 6"],
    ),
    (
        r#"{"op":"unsubscribe","filter":"cases.g","group":"g","member":1,"id":19}"#,
        &["ok 19 5"],
    ),
    (
        r#"{"op":"unsubscribe","filter":"cases.é👍","id":20}"#,
        &["ok 20 4"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","id":21}"#,
        &["ok 21 0"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","data":"","id":22}"#,
        &["ok 22 0"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","data_b64":"","id":23}"#,
        &["ok 23 0"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","data_b64":"AAECAw==","reply":"r","headers":[],"last":false,"when":"always","id":24}"#,
        &["ok 24 0"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","when":"unheard","id":25}"#,
        &["ok 25 0"],
    ),
    (
        r#"{"op":"publish","topic":"cases.nobody","headers":[["a","b"],["a",""]],"last":true}"#,
        &[],
    ),
    (r#"{"op":"drain","id":26}"#, &["ok 26 4"]),
    (r#"{"op":"drain","id":27}"#, &["ok 27 0"]),
    (r#"{"op":"drain"}"#, &[]),
    (r#"{"op":"subscribe","filter":"","id":28}"#, &["ok 28 1"]),
    (
        r#"{"op":"subscribe","filter":"$sys.x","id":29}"#,
        &["ok 29 2"],
    ),
    (r#"{"op":"unsubscribe","filter":"","id":30}"#, &["ok 30 1"]),
    (r#"{"op":"drain","id":31}"#, &["ok 31 1"]),
];

/// What is no frame, or one with a field too many, too few or of another kind. The connection goes on.
pub const INVALID: &[Case] = &[
    ("{", &["error - request_invalid"]),
    ("{}", &["error - request_invalid"]),
    ("{\"op\":\"ping\"", &["error - request_invalid"]),
    ("{\"op\":\"ping\"}}", &["error - request_invalid"]),
    ("{\"op\":\"ping\"}x", &["error - request_invalid"]),
    (
        "{\"op\":\"ping\"}{\"op\":\"ping\"}",
        &["error - request_invalid"],
    ),
    ("{\"op\":\"ping\",}", &["error - request_invalid"]),
    ("{\"op\" \"ping\"}", &["error - request_invalid"]),
    ("{'op':'ping'}", &["error - request_invalid"]),
    ("{op:\"ping\"}", &["error - request_invalid"]),
    ("{\"op\":ping}", &["error - request_invalid"]),
    ("{\"op\":\"ping\\x\"}", &["error - request_invalid"]),
    ("{\"op\":\"ping\\\"}", &["error - request_invalid"]),
    ("{\"op\":\"pi\tng\"}", &["error - request_invalid"]),
    (
        "{\"op\":\"publish\",\"topic\":\"cases\",\"data\":\"\\ud800\"}",
        &["error - request_invalid"],
    ),
    (
        "{\"op\":\"publish\",\"topic\":\"cases\",\"data\":\"\\udc00\\ud800\"}",
        &["error - request_invalid"],
    ),
    (
        "{\"op\":\"publish\",\"topic\":\"cases\",\"data\":\"\\u12\"}",
        &["error - request_invalid"],
    ),
    (
        "{\"op\":\"publish\",\"topic\":\"cases\",\"data\":\"\u{1}\"}",
        &["error - request_invalid"],
    ),
    ("{\"op\":\"ping\"} // comment", &["error - request_invalid"]),
    ("{\"op\":\"ping\",\"id\":01}", &["error - request_invalid"]),
    ("{\"op\":\"ping\",\"id\":+1}", &["error - request_invalid"]),
    ("{\"op\":\"ping\",\"id\":NaN}", &["error - request_invalid"]),
    (r#"{"op":"ping","id":0}"#, &["error - request_invalid"]),
    (r#"{"op":"ping","id":-1}"#, &["error - request_invalid"]),
    (r#"{"op":"ping","id":1.5}"#, &["error - request_invalid"]),
    (r#"{"op":"ping","id":"1"}"#, &["error - request_invalid"]),
    (r#"{"op":"ping","id":true}"#, &["error - request_invalid"]),
    (r#"{"op":"ping","id":[1]}"#, &["error - request_invalid"]),
    (
        r#"{"op":"ping","id":9007199254740992}"#,
        &["error - request_invalid"],
    ),
    (
        r#"{"op":"ping","id":99999999999999999999999}"#,
        &["error - request_invalid"],
    ),
    (r#"{"op":"ping","id":1e999}"#, &["error - request_invalid"]),
    (r#"{"id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":null,"id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":5,"id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":["ping"],"id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":"","id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":"pong","id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":"PING","id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":"ping ","id":7}"#, &["error 7 request_invalid"]),
    (r#"{"op":"welcome","id":7}"#, &["error 7 request_invalid"]),
    (
        r#"{"op":"message","topic":"cases","data":"x","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"ok","id":7,"count":1}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"ping","id":7,"x":1}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"ping","x":1,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"ping","x":{"id":8},"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"ping","topic":"cases","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"drain","filter":"cases","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (r#"{"op":"publish","id":7}"#, &["error 7 request_invalid"]),
    (
        r#"{"op":"publish","data":"x","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":null,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":["cases"],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data":{"a":1},"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data":"x","data_b64":"eA==","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"x","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"eA","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"eA=","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"eA===","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"e A=","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"eA==\n","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"_-8=","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"=eA=","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":"eA==eA==","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","data_b64":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","reply":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","last":1,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","last":"true","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","when":"never","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","when":true,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","when":"unheard"}"#,
        &["error - request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":{},"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":"a: b","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":["a","b"],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a"]],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a","b","c"]],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a",5]],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a",null]],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[[]],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","filter":"cases","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","Data":"x","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","topic":"cases","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (r#"{"op":"subscribe","id":7}"#, &["error 7 request_invalid"]),
    (
        r#"{"op":"subscribe","topic":"cases","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":["cases"],"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","group":5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","group":"g","member":-1,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","group":"g","member":1.5,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","group":"g","member":4294967296,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","group":"g","member":"1","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"cases","member":1,"id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"unsubscribe","id":7}"#,
        &["error 7 request_invalid"],
    ),
    (
        r#"{"op":"unsubscribe","filter":"cases","member":1,"id":7}"#,
        &["error 7 request_invalid"],
    ),
];

/// What NATIVE.md refuses.
pub const REFUSED: &[Case] = &[
    (
        r#"{"op":"publish","topic":"$JS.x","data":"","id":3}"#,
        &["error 3 topic_reserved"],
    ),
    (
        r#"{"op":"publish","topic":"$O.","data":""}"#,
        &["error - topic_reserved"],
    ),
    (
        r#"{"op":"publish","topic":"$KV.a","when":"unheard","id":4}"#,
        &["error 4 topic_reserved"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["","b"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a b","c"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a:","c"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["é","c"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a","b\nc: d"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a","b\r"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["a","\u0000"]],"id":5}"#,
        &["error 5 headers_invalid"],
    ),
    (
        r#"{"op":"publish","topic":"cases","headers":[["fine","x"],["a","\r"]]}"#,
        &["error - headers_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"a.>.b","id":6}"#,
        &["error 6 topic_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":">.a"}"#,
        &["error - topic_invalid"],
    ),
    (
        r#"{"op":"subscribe","filter":"a.>.b","group":"g","member":1,"id":6}"#,
        &["error 6 topic_invalid"],
    ),
];
