//! The connection to a foreign shim: one call at a time, and Wait calls that stand open beside it.

use crate::poll::Poll;
use crate::wire::{HEADER, Refusal};
use containerd_shim_protos::api;
use protobuf::Message;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;
use sys::rustix::net::{RecvFlags, SendFlags, recv, send};
use sys::rustix::process::Pid;
use ttrpc::proto::{Code, Request, Response};

/// The largest answer that is read.
const MOST_ANSWER: usize = 4 << 20;
/// Frame type of a response.
const RESPONSE: u8 = 2;

/// One that runs.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) socket: UnixStream,
    /// Its number; 0 if it did not say.
    pub(super) pid: u32,
    /// Of the process, if it is this shim's child.
    pub(super) process: Option<OwnedFd>,
    /// Where it logs to.
    pub(super) log: OwnedFd,
    pub(super) logged: u64,
    /// Directory of its socket, which is named by this descriptor.
    pub(super) _place: OwnedFd,
    pub(super) service: &'static str,
    pub(super) input: Vec<u8>,
    pub(super) stream: u32,
    pub(super) waits: Vec<Wait>,
    /// Ends that were told and not looked at yet.
    pub(super) ended: Vec<(Wait, u32)>,
    pub(super) broken: bool,
}

/// A Wait call that stands open.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(super) stream: u32,
    /// Whose end it tells.
    pub(crate) pid: Pid,
    /// Of that process; none: the shim had reaped it before it could be opened.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The process has ended: when the shim must have said so.
    pub(super) due: Option<Instant>,
    pub(super) id: String,
    pub(super) exec_id: String,
}

impl Wait {
    pub(super) fn unwatch(&self, epoll: &Poll) {
        if let Some(pidfd) = &self.pidfd {
            epoll.remove(pidfd);
        }
    }
}

impl Live {
    pub(super) fn send(
        &mut self,
        method: &str,
        request: &impl Message,
        until: Instant,
    ) -> Result<u32, Refusal> {
        let internal = |e: &dyn std::error::Error| Refusal::internal(method, e);
        let payload = request.write_to_bytes().map_err(|e| internal(&e))?;
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload,
            ..Request::default()
        };
        let data = request.write_to_bytes().map_err(|e| internal(&e))?;
        // A client's streams are odd.
        self.stream = if self.stream == 0 { 1 } else { self.stream.wrapping_add(2) };
        let length = u32::try_from(data.len()).map_err(|e| internal(&e))?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(self.stream.to_be_bytes());
        frame.extend([1, 0]);
        frame.extend(data);
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if ready(&self.socket, PollFlags::OUT, until) => {}
                Err(e) => {
                    self.broken = true;
                    return Err(internal(&io::Error::from(e)));
                }
            }
        }
        Ok(self.stream)
    }

    /// Reads what is there, and no more at a time than the largest answer has.
    pub(super) fn receive(&mut self) {
        let mut buffer = [0; 4096];
        while self.input.len() <= HEADER + MOST_ANSWER {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => {
                    self.broken = true;
                    break;
                }
                Ok((count, _)) => self.input.extend(buffer.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.sort_out();
    }

    /// Answers of Wait calls are put aside; that of a call that somebody waits for stays at the front.
    fn sort_out(&mut self) {
        let mut kept = Vec::new();
        let mut rest = std::mem::take(&mut self.input);
        loop {
            match frame(&rest) {
                Ok(None) => break,
                Ok(Some((stream, used))) => {
                    let bytes: Vec<u8> = rest.drain(..used).collect();
                    match self.waits.iter().position(|wait| wait.stream == stream) {
                        Some(at) => {
                            let wait = self.waits.swap_remove(at);
                            let code = code_of(bytes.get(HEADER..).unwrap_or_default());
                            self.ended.push((wait, code));
                        }
                        // Also of a call that nobody waits for any more.
                        None if stream == self.stream => kept.extend(bytes),
                        None => {}
                    }
                }
                Err(()) => {
                    self.broken = true;
                    break;
                }
            }
        }
        // One call is under way at a time, so one answer is due: who answers on and on is no shim.
        self.broken |= kept.len() > HEADER + MOST_ANSWER;
        kept.extend(rest);
        self.input = kept;
    }

    /// The answer of a call, if it is there.
    pub(super) fn answer(&mut self, stream: u32) -> Option<Response> {
        let (found, used) = frame(&self.input).ok().flatten()?;
        let bytes: Vec<u8> = self.input.drain(..used).collect();
        let response = Response::parse_from_bytes(bytes.get(HEADER..).unwrap_or_default());
        // An answer that is none must not pass for an empty one, which says that all went well.
        self.broken |= response.is_err();
        response.ok().filter(|_| found == stream)
    }
}

/// The stream and the length of the frame that the bytes begin with, if it is whole. An error: no answer at all.
fn frame(bytes: &[u8]) -> Result<Option<(u32, usize)>, ()> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if kind != RESPONSE || length > MOST_ANSWER {
        return Err(());
    }
    Ok((rest.len() >= length).then_some((u32::from_be_bytes([s0, s1, s2, s3]), HEADER + length)))
}

/// The code that a Wait call was answered with. One that was refused, or answered with what is no answer, tells none.
fn code_of(data: &[u8]) -> u32 {
    let unread = |e: protobuf::Error| Refusal::internal("Wait", &e);
    let response = Response::parse_from_bytes(data).map_err(unread);
    let payload = response.and_then(|response| answered(response, "Wait"));
    let response = payload.and_then(|payload| api::WaitResponse::parse_from_bytes(&payload).map_err(unread));
    response.map_or(crate::reaper::KILLED, |response| response.exit_status)
}

/// The payload of an answer, or what the shim refused it with.
pub(super) fn answered(response: Response, method: &str) -> Result<Vec<u8>, Refusal> {
    match response.status.into_option() {
        Some(status) if status.code.value() != Code::OK as i32 => {
            let code = status.code.enum_value().unwrap_or(Code::INTERNAL);
            Err(Refusal::new(code, format!("the handler's shim: {method}: {}", status.message)))
        }
        Some(_) | None => Ok(response.payload),
    }
}

/// Whether a socket is ready before the moment.
pub(super) fn ready(socket: &UnixStream, what: PollFlags, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let mut polled = [PollFd::new(socket, what)];
    sys::rustix::io::retry_on_intr(|| poll(&mut polled, Some(&left))).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::MessageField;

    fn response(stream: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(data.len()).expect("small").to_be_bytes().to_vec();
        bytes.extend(stream.to_be_bytes());
        bytes.extend([RESPONSE, 0]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_frame_is_found_when_it_is_whole_and_what_is_no_answer_is_broken() {
        let bytes = response(5, &[1, 2, 3]);
        for cut in 0..bytes.len() {
            assert_eq!(frame(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(frame(&bytes), Ok(Some((5, HEADER + 3))));
        let mut kind = bytes.clone();
        kind[8] = 1;
        assert_eq!(frame(&kind), Err(()));
        let mut huge = bytes;
        huge[0] = 1;
        assert_eq!(frame(&huge), Err(()));
    }

    #[test]
    fn a_wait_that_is_refused_tells_no_code_of_its_own() {
        let told = api::WaitResponse { exit_status: 7, ..api::WaitResponse::default() };
        let payload = told.write_to_bytes().expect("encode");
        let response = Response { payload, ..Response::default() }.write_to_bytes().expect("encode");
        assert_eq!((code_of(&response), code_of(&[0xff])), (7, crate::reaper::KILLED));
        let status = ttrpc::proto::Status { code: Code::NOT_FOUND.into(), ..Default::default() };
        let refused = Response { status: MessageField::some(status), ..Response::default() };
        assert_eq!(code_of(&refused.write_to_bytes().expect("encode")), crate::reaper::KILLED);
    }
}
