//! Any bytes as frames of WebSocket, cut anywhere: the same frame or a refusal with the same code; what is written is read
//! again; texts that come in parts are judged as in one piece, and as early as can be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::websocket::{
    self, CONTROL_BYTES_MAX, Frame, OpCode, Utf8Check, parse_close, server_frame, unmask,
};

fn frames(input: &[u8]) {
    let whole = Frame::parse(input);
    for cut in 0..input.len().min(20) {
        match (Frame::parse(&input[..cut]), whole) {
            (Ok(None), _) => {}
            (Ok(Some(part)), Ok(Some(whole))) => {
                assert_eq!(part, whole);
                assert!(part.header <= cut);
            }
            (Err(part), Err(whole)) => assert_eq!(part.code, whole.code),
            (part, whole) => panic!("cut at {cut}: {part:?}, whole: {whole:?}"),
        }
    }
    let Ok(Some(frame)) = whole else { return };
    assert!(frame.header <= input.len().min(14));
    if matches!(frame.opcode, OpCode::Control(_)) {
        assert!(frame.is_final && frame.length <= CONTROL_BYTES_MAX as u64);
    }
    if let Ok(length) = usize::try_from(frame.length) {
        let mut again = Vec::new();
        websocket::write_client_header(&mut again, frame.opcode, length);
        let read = Frame::parse(&again).expect("a frame").expect("a whole one");
        assert_eq!((read.opcode, read.length, read.header), (frame.opcode, frame.length, frame.header));
        assert!(read.is_final && read.mask == [0; 4] && again.len() == read.header);
    }
    masks(&input[frame.header..], frame.mask);
}

/// A mask comes off in parts as in one piece, and twice is not at all.
fn masks(payload: &[u8], mask: [u8; 4]) {
    let mut whole = payload.to_vec();
    unmask(&mut whole, mask, 0);
    let mut parts = payload.to_vec();
    let middle = payload.len() / 3;
    let (first, second) = parts.split_at_mut(middle);
    unmask(first, mask, 0);
    unmask(second, mask, middle as u64);
    assert_eq!(whole, parts);
    let plain: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    assert_eq!(whole, plain);
    unmask(&mut whole, mask, 0);
    assert_eq!(whole, payload);
}

fn texts(text: &[u8], step: usize) {
    let mut check = Utf8Check::default();
    let mut end = 0;
    while end < text.len() {
        let start = end;
        end = (end + step).min(text.len());
        let goes_on = check.take(&text[start..end]);
        let judged = std::str::from_utf8(&text[..end]);
        let expected = judged.map_err(|error| error.error_len());
        assert_eq!(goes_on, !matches!(expected, Err(Some(_))), "after {end}");
        if !goes_on {
            return;
        }
        assert_eq!(check.is_whole(), judged.is_ok(), "after {end}");
    }
}

fn written(payload: &[u8], expected: usize) {
    let opcode = [websocket::TEXT, websocket::BINARY][payload.len() % 2];
    let mut out = b"before".to_vec();
    websocket::write_frame(&mut out, opcode, expected, |out| out.extend_from_slice(payload));
    let frame = &out[6..];
    let (code, range) = server_frame(frame).expect("a whole frame");
    assert_eq!((code, &frame[range.clone()], range.end), (u8::from(opcode), payload, frame.len()));
    assert_eq!(server_frame(&frame[..frame.len() - 1]), None);
    if let Some((_, range)) = server_frame(payload) {
        assert!(range.end <= payload.len());
    }
    if let Ok(code) = parse_close(payload) {
        let mut close = Vec::new();
        let reason = payload.get(2..).unwrap_or_default();
        websocket::write_close(&mut close, code, std::str::from_utf8(reason).expect("a text"));
        let (opcode, range) = server_frame(&close).expect("a whole frame");
        assert_eq!((opcode, &close[range]), (8, payload));
    }
}

fuzz_target!(|data: (u8, u16, &[u8])| {
    let (step, expected, input) = data;
    frames(input);
    texts(input, usize::from(step % 16) + 1);
    written(input, usize::from(expected));
});
