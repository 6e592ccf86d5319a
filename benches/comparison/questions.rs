//! What a server asks between its deliveries, such as whether the client is there.
//!
//! Owns the bytes of a question that has come in part. Knows no sockets: who answers, and when, is
//! the generator's business.

use crate::script::{Expect, Mismatch};

/// A question as its bytes, and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// What the server sends.
    pub asked: &'static [u8],
    /// What it wants to hear.
    pub answer: &'static [u8],
}

/// One connection's questions.
#[derive(Debug, Default)]
pub struct Questions {
    /// May become a question.
    begun: Vec<u8>,
    /// Questions that were not answered yet.
    pub open: usize,
}

/// What was found in the input of a connection.
enum Found {
    Nothing,
    /// A question, or what came of it, from here to the end of the input.
    Begun(usize),
    Whole(usize),
}

fn find(input: &[u8], expect: Option<&Expect>, asked: &[u8]) -> Found {
    // Where nothing is expected all must be questions.
    let (first, frame) = expect.map_or((0, usize::MAX), |expect| {
        (expect.owed(), expect.frame_bytes())
    });
    for at in (first..input.len()).step_by(frame) {
        let rest = &input[at..];
        if rest.starts_with(asked) {
            return Found::Whole(at);
        } else if asked.starts_with(rest) {
            return Found::Begun(at);
        }
    }
    Found::Nothing
}

impl Questions {
    /// Takes what was read: questions are counted, everything else must be what is expected. Answers how many
    /// frames of that became whole.
    pub fn take(
        &mut self,
        input: &[u8],
        question: Question,
        mut expect: Option<&mut Expect>,
    ) -> Result<u64, Mismatch> {
        if !self.begun.is_empty() {
            let mut whole = std::mem::take(&mut self.begun);
            whole.extend_from_slice(input);
            return self.take(&whole, question, expect);
        }
        let (mut input, mut frames) = (input, 0);
        loop {
            let found = find(input, expect.as_deref(), question.asked);
            let until = match found {
                Found::Nothing => input.len(),
                Found::Begun(at) | Found::Whole(at) => at,
            };
            frames += expected(&input[..until], expect.as_deref_mut())?;
            match found {
                Found::Nothing => return Ok(frames),
                Found::Begun(_) => {
                    self.begun.extend_from_slice(&input[until..]);
                    return Ok(frames);
                }
                Found::Whole(_) => {
                    self.open += 1;
                    input = &input[until + question.asked.len()..];
                }
            }
        }
    }
}

/// Takes what should be deliveries or answers.
pub fn expected(input: &[u8], expect: Option<&mut Expect>) -> Result<u64, Mismatch> {
    match expect {
        Some(expect) => expect.take(input),
        None if input.is_empty() => Ok(0),
        None => {
            let said = input[..input.len().min(100)].escape_ascii();
            let text = format!("a connection that should hear nothing got \"{said}\"");
            Err(Mismatch(text))
        }
    }
}
