//! Classic BPF from the end to the beginning: when an instruction is written, all that it can jump to is
//! there already.

/// Instruction of `struct sock_filter`, linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

// linux/bpf_common.h
pub(crate) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(crate) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(crate) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(crate) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(crate) const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(crate) const GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(crate) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// How far a condition jumps at most before a step in between is written. Conditions have 8 bits; two
/// are left for the steps themselves.
const NEAR: usize = 253;

/// An instruction that can be jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program that is being written backwards.
#[derive(Debug, Default)]
pub(crate) struct Emitter {
    /// The last instruction first.
    reversed: Vec<Insn>,
}

impl Emitter {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Insn { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// Instructions between the next one to be written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    /// Returns an action.
    pub(crate) fn give(&mut self, action: u32) -> Label {
        self.push(RETURN, 0, 0, action)
    }

    /// Loads a word of `struct seccomp_data` and goes on at `next`.
    pub(crate) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.follow(next);
        self.push(LOAD, 0, 0, offset)
    }

    /// Masks the loaded word and goes on at `next`.
    pub(crate) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.follow(next);
        self.push(AND, 0, 0, mask)
    }

    /// Goes to `yes` or `no`.
    pub(crate) fn test(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let no = self.near(no);
        let yes = self.near(yes);
        let offset = |label| u8::try_from(self.distance(label)).expect("made near just above");
        let (jt, jf) = (offset(yes), offset(no));
        self.push(code, jt, jf, k)
    }

    /// Makes `next` the instruction after the one to be written.
    fn follow(&mut self, next: Label) {
        let distance = self.distance(next);
        if distance > 0 {
            let distance = u32::try_from(distance).expect("programs have a few thousand instructions");
            self.push(JUMP, 0, 0, distance);
        }
    }

    /// A label within reach that does what `label` does.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) <= NEAR {
            return label;
        }
        let target = self.reversed[label.0];
        if target.code == RETURN {
            return self.give(target.k);
        }
        let distance =
            u32::try_from(self.distance(label)).expect("programs have a few thousand instructions");
        self.push(JUMP, 0, 0, distance)
    }

    /// The program, beginning with the instruction that was written last.
    pub(crate) fn finish(mut self) -> Vec<Insn> {
        self.reversed.reverse();
        self.reversed
    }
}
