//! Signals as readable events of a single-threaded program (signalfd(2)).

use rustix::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use rustix::process::Signal;
use std::io;

/// A descriptor that becomes readable when one of its signals is pending. The signals are blocked
/// for the calling thread, and for each child that it clones until the child resets its mask.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` for the calling thread and takes them as events. Non-blocking and closed
    /// on exec.
    ///
    /// # Errors
    /// A number that is not a signal, or what signalfd(2) says.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let set = set_of(signals)?;
        // SAFETY: `set` is initialised and outlives both calls; the descriptor is new and ours.
        unsafe {
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Takes the next pending signal's number; none when none is pending.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut record) {
            Ok(_) => {
                let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
                Ok(i32::try_from(number).ok())
            }
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signal with this number, also a real-time one (signal(7)); none for numbers that are no signal
/// and for the two that the C library keeps for itself.
#[must_use]
pub fn by_number(number: i32) -> Option<Signal> {
    match number {
        // SAFETY: these are valid signal numbers, not zero, and not those of the C library (32, 33).
        1..=31 | 34..=64 => Some(unsafe { Signal::from_raw_unchecked(number) }),
        _ => None,
    }
}

/// Unblocks `signals` for the calling thread: what a child does with the mask that it inherited.
///
/// # Errors
/// A number that is not a signal.
pub fn unblock(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: `set` is initialised and outlives the call.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            if libc::sigaddset(set.as_mut_ptr(), *signal) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(set.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_as_an_event() {
        // A signal that nothing else in this test program uses, sent to this thread alone.
        let events = SignalFd::block(&[libc::SIGURG]).expect("signalfd");
        assert_eq!(events.take().expect("read"), None);
        // SAFETY: a signal to the calling thread, which blocks it.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGURG) }, 0);
        assert_eq!(events.take().expect("read"), Some(libc::SIGURG));
        assert_eq!(events.take().expect("read"), None);
    }

    #[test]
    fn a_real_time_signal_has_a_number_and_zero_has_none() {
        assert_eq!(by_number(37).map(Signal::as_raw), Some(37));
        assert_eq!(by_number(9), Some(Signal::KILL));
        for none in [-1, 0, 32, 33, 65] {
            assert_eq!(by_number(none), None);
        }
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert!(SignalFd::block(&[4096]).is_err());
    }
}
