//! Asking the kernel over one netlink socket: requests with answers, batches, dumps.

use crate::wire::{self, Message, Received};
use std::{fmt, time::Duration};
use sys::{
    netlink::{Socket, Subsystem},
    rustix::io::Errno,
};

/// How long the kernel may take for one answer; it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest datagram of a dump is 32 KiB (`NLMSG_GOODSIZE` and what recvmsg(2) teaches the kernel).
const ROOM: usize = 64 * 1024;
const ACK_TLVS: u16 = 0x200; // NLM_F_ACK_TLVS
const CAPPED: u16 = 0x100; // NLM_F_CAPPED
const ATTR_MSG: u16 = 1; // NLMSGERR_ATTR_MSG

/// What the kernel said instead of yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its error number.
    pub errno: Errno,
    /// Its own words, where it has some.
    pub text: Option<String>,
}

impl Refusal {
    fn of(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{} ({text})", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl std::error::Error for Refusal {}

/// A socket, its sequence numbers and its buffer.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Session {
    /// Of the network namespace that the calling thread is in.
    pub(crate) fn open(subsystem: Subsystem) -> Result<Self, Errno> {
        Ok(Self { socket: Socket::open(subsystem, PATIENCE)?, sequence: 1, buffer: vec![0; ROOM] })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&mut self) -> Result<Vec<Received>, Refusal> {
        let length = self.socket.receive(&mut self.buffer).map_err(Refusal::of)?;
        Ok(wire::messages(&self.buffer[..length]))
    }

    /// One request with what it answers.
    pub(crate) fn ask(&mut self, message: Message) -> Result<Vec<Received>, Refusal> {
        let sequence = self.next();
        let bytes = message.with_flags(wire::ACK).finish(sequence);
        self.socket.send(&bytes).map_err(Refusal::of)?;
        self.collect(sequence)
    }

    /// All objects that a dump lists. One that changed in the middle is asked for again.
    pub(crate) fn dump(&mut self, message: Message) -> Result<Vec<Received>, Refusal> {
        let message = message.with_flags(wire::DUMP);
        for _ in 0..DUMP_TRIES {
            let sequence = self.next();
            self.socket.send(&message.clone().finish(sequence)).map_err(Refusal::of)?;
            match self.collect(sequence) {
                Ok(found) if found.iter().any(|m| m.flags & INTERRUPTED != 0) => {}
                Err(refusal) if refusal.errno == Errno::INTR => {}
                other => return other,
            }
        }
        Err(Refusal::of(Errno::AGAIN))
    }

    fn collect(&mut self, sequence: u32) -> Result<Vec<Received>, Refusal> {
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue; // the rest of a request that was given up
                }
                match message.kind {
                    wire::ERROR => return verdict(&message).map(|()| found),
                    wire::DONE => {
                        found.push(message);
                        return dumped(found);
                    }
                    _ => found.push(message),
                }
            }
        }
    }

    /// Several requests in one send, each with its own answer, in order.
    pub(crate) fn all(&mut self, requests: Vec<Message>) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        for request in requests {
            let sequence = self.next();
            bytes.extend(request.with_flags(wire::ACK).finish(sequence));
        }
        self.socket.send(&bytes).map_err(Refusal::of)?;
        let mut verdicts = Vec::with_capacity(count);
        while verdicts.len() < count {
            for message in self.receive()? {
                if message.kind == wire::ERROR
                    && message.sequence.wrapping_sub(first)
                        < self.sequence.wrapping_sub(first).wrapping_add(1)
                {
                    verdicts.push(verdict(&message));
                }
            }
        }
        Ok(verdicts)
    }

    /// An nf_tables transaction: all or nothing, the first error is told with the number of its message.
    pub(crate) fn transaction(&mut self, requests: Vec<Message>) -> Result<(), (usize, Refusal)> {
        let begin = self.next();
        let mut bytes = batch_mark(BATCH_BEGIN).finish(begin);
        let count = requests.len();
        for request in requests {
            let sequence = self.next();
            bytes.extend(request.with_flags(wire::ACK).finish(sequence));
        }
        let end = self.next();
        bytes.extend(batch_mark(BATCH_END).finish(end));
        self.socket.send(&bytes).map_err(|e| (0, Refusal::of(e)))?;
        let mut first_error = None;
        let mut answered = 0;
        while answered < count {
            for message in self.receive().map_err(|e| (answered, e))? {
                let number = message.sequence.wrapping_sub(begin);
                if message.kind != wire::ERROR || number > end.wrapping_sub(begin) {
                    continue;
                }
                let said = verdict(&message);
                if number == 0 || message.sequence == end {
                    // The batch as a whole could not be processed; nothing else follows.
                    return Err((0, said.err().unwrap_or(Refusal::of(Errno::IO))));
                }
                answered += 1;
                if let Err(refusal) = said {
                    let index = usize::try_from(number).unwrap_or(usize::MAX) - 1;
                    first_error.get_or_insert((index, refusal));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// How often a dump that others keep changing is begun.
const DUMP_TRIES: u32 = 50;
/// `NLM_F_DUMP_INTR`
const INTERRUPTED: u16 = 0x10;

/// A dump ends with `NLMSG_DONE`, which has the error if it ended early.
fn dumped(mut found: Vec<Received>) -> Result<Vec<Received>, Refusal> {
    let Some(end) = found.last() else { return Ok(found) };
    let code = wire::number(&end.payload).unwrap_or(0).cast_signed();
    if code < 0 {
        let words = end.payload.get(4..).filter(|_| end.flags & ACK_TLVS != 0);
        let text = words.and_then(|rest| wire::attr(rest, ATTR_MSG)).map(wire::text);
        return Err(Refusal { errno: Errno::from_raw_os_error(code.wrapping_neg()), text });
    }
    if end.flags & INTERRUPTED != 0 {
        return Err(Refusal::of(Errno::INTR));
    }
    found.pop();
    Ok(found)
}

const BATCH_BEGIN: u16 = 0x10; // NFNL_MSG_BATCH_BEGIN
const BATCH_END: u16 = 0x11;
const SUBSYSTEM_NFTABLES: u8 = 10;

fn batch_mark(kind: u16) -> Message {
    // nfgenmsg {AF_UNSPEC, NFNETLINK_V0, res_id in network byte order}
    Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM_NFTABLES])
}

/// What an `NLMSG_ERROR` says; netlink(7), and the kernel's Documentation/userspace-api/netlink.
fn verdict(message: &Received) -> Result<(), Refusal> {
    let code = wire::number(&message.payload).unwrap_or(0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw_os_error(code.wrapping_neg());
    Err(Refusal { errno, text: extended_text(message) })
}

fn extended_text(message: &Received) -> Option<String> {
    if message.flags & ACK_TLVS == 0 {
        return None;
    }
    // The code, then the header of the request; all of the request unless it was capped.
    let echoed = if message.flags & CAPPED != 0 {
        16
    } else {
        usize::try_from(wire::number(message.payload.get(4..)?)?).ok()?
    };
    let rest = message.payload.get(4 + echoed.next_multiple_of(4)..)?;
    wire::attr(rest, ATTR_MSG).map(wire::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_number_and_the_words_of_the_kernel() {
        let mut session = Session::open(Subsystem::Route).expect("open");
        // RTM_GETLINK of an index that cannot be.
        let mut head = [0_u8; 16];
        head[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let refusal = session.ask(Message::new(18, 0, &head)).expect_err("no such link");
        assert_eq!(refusal.errno, Errno::NODEV);
        // RTM_GETADDR with a prefix length: strict checking has words for that.
        let refusal = session.dump(Message::new(22, 0, &[0, 9, 0, 0, 0, 0, 0, 0])).expect_err("strict");
        assert!(refusal.text.is_some(), "{refusal:?}");
    }

    #[test]
    fn each_request_of_a_batch_has_its_own_answer() {
        let mut session = Session::open(Subsystem::Route).expect("open");
        let get = |index: i32| {
            let mut head = [0_u8; 16];
            head[4..8].copy_from_slice(&index.to_ne_bytes());
            // RTM_SETLINK that changes nothing
            Message::new(19, 0, &head)
        };
        let said = session.all(vec![get(1), get(i32::MAX), get(1)]).expect("sent");
        assert_eq!(said.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }
}
