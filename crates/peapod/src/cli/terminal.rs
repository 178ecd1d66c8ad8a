//! The person's own terminal while a session has it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsFd as _,
};
use sys::rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Bytes of input in one piece; a pasted megabyte is many.
const PIECE: usize = 16 << 10;
/// Pieces that are read ahead of the session.
const AHEAD: usize = 4;

/// Whether standard input is a terminal.
pub(crate) fn has_input() -> bool {
    io::stdin().is_terminal()
}

/// Columns and rows of the terminal that shows the output; none if there is none, or it does not know.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The terminal passes on each key as it is; dropping this gives it back as it was.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Takes the terminal of standard input.
    ///
    /// # Errors
    /// Of tcsetattr(3).
    pub(crate) fn take() -> io::Result<Raw> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Standard input in pieces; the queue's end is the input's.
///
/// # Errors
/// If standard input is closed.
pub(crate) fn input() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (pieces, queue) = mpsc::channel(AHEAD);
    // Not std's, whose lock and buffer would stay with a thread that nobody can end.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if pieces.blocking_send(buffer[..n].to_vec()).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(queue)
}

/// Finds the keys that leave an attached terminal: Ctrl-P, Ctrl-Q, as with other runtimes.
#[derive(Debug, Default)]
pub(crate) struct Leave {
    /// A Ctrl-P is held back until the next key.
    held: bool,
}

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

impl Leave {
    /// What of these keys is for the container, and whether the person leaves.
    pub(crate) fn filter(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for &key in keys {
            if std::mem::take(&mut self.held) {
                if key == CTRL_Q {
                    return (passed, true);
                }
                passed.push(CTRL_P);
            }
            if key == CTRL_P {
                self.held = true;
            } else {
                passed.push(key);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_p_and_then_ctrl_q_leaves() {
        let mut leave = Leave::default();
        assert_eq!(leave.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(leave.filter(&[CTRL_Q, CTRL_P]), (vec![CTRL_Q], false));
        assert_eq!(leave.filter(b"x"), (vec![CTRL_P, b'x'], false));
        assert_eq!(leave.filter(&[CTRL_P, CTRL_P]), (vec![CTRL_P], false));
        assert_eq!(leave.filter(&[CTRL_Q, b'y']), (vec![], true));
        assert_eq!(Leave::default().filter(&[b'a', CTRL_P, CTRL_Q]), (vec![b'a'], true));
    }
}
