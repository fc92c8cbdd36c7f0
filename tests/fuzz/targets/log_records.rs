//! Log bytes from a hostile agent, as the manager and the command line read them: whole at once or in pieces, the
//! same records come out, up to the first that makes no sense.
#![no_main]

use deputy_task::log_record::{RecordReader, records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    let mut at_once = Vec::new();
    for record in records(bytes) {
        let Ok(record) = record else { break };
        at_once.push(format!("{record:?}"));
    }
    let (mut reader, mut in_pieces) = (RecordReader::default(), Vec::new());
    for piece in bytes.chunks(usize::from(step) + 1) {
        if reader
            .push(piece, |record| in_pieces.push(format!("{record:?}")))
            .is_err()
        {
            break;
        }
    }
    assert_eq!(at_once, in_pieces);
});
