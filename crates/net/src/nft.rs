//! nf_tables by netlink: tables, chains, rules, maps and their elements.
//!
//! Numbers are those of linux/netfilter/nf_tables.h. Expressions work on registers of 4 bytes
//! (`NFT_REG32_00` is 8); a key of several parts has each part padded to 4 bytes.

use crate::wire::{APPEND, CREATE, EXCL, Message, Received, attr, attrs};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const FAMILY_INET: u8 = 1; // NFPROTO_INET

/// First register of 4 bytes.
const REG: u32 = 8;

/// A message about an object of the `inet` family.
fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[FAMILY_INET, 0, 0, 0])
}

const TABLE_NAME: u16 = 1;

pub(crate) fn add_table(table: &str) -> Message {
    message(NEWTABLE, CREATE).text(TABLE_NAME, table)
}

pub(crate) fn delete_table(table: &str) -> Message {
    message(DELTABLE, 0).text(TABLE_NAME, table)
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// `filter` or `nat`
    pub(crate) kind: &'static str,
    /// `NF_INET_*`
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

pub(crate) const PRE_ROUTING: u32 = 0;
pub(crate) const LOCAL_OUT: u32 = 3;
pub(crate) const POST_ROUTING: u32 = 4;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

pub(crate) fn add_chain(table: &str, chain: &str, hook: Option<Hook>) -> Message {
    let chain = message(NEWCHAIN, CREATE).text(CHAIN_TABLE, table).text(CHAIN_NAME, chain);
    match hook {
        None => chain,
        Some(hook) => chain.text(CHAIN_TYPE, hook.kind).nest(CHAIN_HOOK, |m| {
            m.be32(HOOK_NUMBER, hook.number).be32(HOOK_PRIORITY, hook.priority.cast_unsigned())
        }),
    }
}

pub(crate) fn delete_chain(table: &str, chain: &str) -> Message {
    message(DELCHAIN, 0).text(CHAIN_TABLE, table).text(CHAIN_NAME, chain)
}

pub(crate) fn get_chain(table: &str, chain: &str) -> Message {
    message(GETCHAIN, 0).text(CHAIN_TABLE, table).text(CHAIN_NAME, chain)
}

/// A dump of every chain of the family.
pub(crate) fn list_chains() -> Message {
    message(GETCHAIN, 0)
}

/// (table, chain) of an answer to [`list_chains`].
pub(crate) fn chain_of(received: &Received) -> Option<(String, String)> {
    let rest = received.payload.get(4..)?;
    Some((crate::wire::text(attr(rest, CHAIN_TABLE)?), crate::wire::text(attr(rest, CHAIN_NAME)?)))
}

/// A type of a key or of mapped data, as `nft` shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
}

impl Part {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    fn size(self) -> u32 {
        match self {
            Self::Ipv6 => 16,
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
        }
    }
}

fn type_of(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |all, part| all << 6 | part.number())
}

fn size_of(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.size()).sum()
}

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_MAP: u32 = 0x8;
const DATA_VERDICT: u32 = 0xffff_ff00;

/// What a map leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leads<'a> {
    /// To a jump into a chain.
    Chain,
    /// To data.
    Data(&'a [Part]),
}

pub(crate) fn add_map(table: &str, name: &str, key: &[Part], leads: Leads<'_>, id: u32) -> Message {
    let map = message(NEWSET, CREATE)
        .text(SET_TABLE, table)
        .text(SET_NAME, name)
        .be32(SET_FLAGS, SET_MAP)
        .be32(SET_KEY_TYPE, type_of(key))
        .be32(SET_KEY_LEN, size_of(key))
        .be32(SET_ID, id);
    match leads {
        Leads::Chain => map.be32(SET_DATA_TYPE, DATA_VERDICT).be32(SET_DATA_LEN, 0),
        Leads::Data(parts) => map.be32(SET_DATA_TYPE, type_of(parts)).be32(SET_DATA_LEN, size_of(parts)),
    }
}

const ELEM_TABLE: u16 = 1;
const ELEM_SET: u16 = 2;
const ELEM_LIST: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USER: u16 = 6;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT_NEST: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: i32 = -3;
const RETURN: i32 = -5;
const DROP: i32 = 0;
/// `nft` shows this user data as the element's comment: type 0, length, text with NUL.
const COMMENT: u8 = 0;

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Jump(String),
    Data(Vec<u8>),
}

/// An element of a map, with the pod that it is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) target: Target,
    pub(crate) owner: String,
}

fn element_message(
    kind: u16,
    flags: u16,
    table: &str,
    map: &str,
    inside: impl FnOnce(Message) -> Message,
) -> Message {
    message(kind, flags)
        .text(ELEM_TABLE, table)
        .text(ELEM_SET, map)
        .nest(ELEM_LIST, |m| m.nest(LIST_ELEM, inside))
}

/// Adds an element; EEXIST if there is one with that key.
pub(crate) fn add_element(table: &str, map: &str, element: &Element) -> Message {
    element_message(NEWSETELEM, CREATE | EXCL, table, map, |m| {
        let mut comment = vec![COMMENT, u8::try_from(element.owner.len() + 1).unwrap_or(u8::MAX)];
        comment.extend_from_slice(element.owner.as_bytes());
        comment.push(0);
        m.nest(ELEMENT_KEY, |m| m.attr(DATA_VALUE, &element.key))
            .nest(ELEMENT_DATA, |m| match &element.target {
                Target::Data(bytes) => m.attr(DATA_VALUE, bytes),
                Target::Jump(chain) => verdict(m, JUMP, Some(chain)),
            })
            .attr(ELEMENT_USER, &comment)
    })
}

pub(crate) fn delete_element(table: &str, map: &str, key: &[u8]) -> Message {
    element_message(DELSETELEM, 0, table, map, |m| m.nest(ELEMENT_KEY, |m| m.attr(DATA_VALUE, key)))
}

/// Asks for one element; ENOENT if there is none, or no such map.
pub(crate) fn get_element(table: &str, map: &str, key: &[u8]) -> Message {
    element_message(GETSETELEM, 0, table, map, |m| m.nest(ELEMENT_KEY, |m| m.attr(DATA_VALUE, key)))
}

/// A dump of a map's elements.
pub(crate) fn list_elements(table: &str, map: &str) -> Message {
    message(GETSETELEM, 0).text(ELEM_TABLE, table).text(ELEM_SET, map)
}

/// The elements of an answer to [`get_element`] or [`list_elements`].
pub(crate) fn elements_of(received: &Received) -> Vec<Element> {
    let list = received.payload.get(4..).and_then(|rest| attr(rest, ELEM_LIST)).unwrap_or_default();
    attrs(list).filter_map(|(_, element)| element_of(element)).collect()
}

fn element_of(bytes: &[u8]) -> Option<Element> {
    let key = attr(attr(bytes, ELEMENT_KEY)?, DATA_VALUE)?.to_vec();
    let data = attr(bytes, ELEMENT_DATA)?;
    let target = match attr(data, DATA_VERDICT_NEST) {
        Some(verdict) => Target::Jump(crate::wire::text(attr(verdict, VERDICT_CHAIN)?)),
        None => Target::Data(attr(data, DATA_VALUE)?.to_vec()),
    };
    let owner =
        attr(bytes, ELEMENT_USER).and_then(|user| user.get(2..)).map(crate::wire::text).unwrap_or_default();
    Some(Element { key, target, owner })
}

fn verdict(m: Message, code: i32, chain: Option<&str>) -> Message {
    m.nest(DATA_VERDICT_NEST, |m| {
        let m = m.be32(VERDICT_CODE, code.cast_unsigned());
        match chain {
            Some(chain) => m.text(VERDICT_CHAIN, chain),
            None => m,
        }
    })
}

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;

/// What is looked at in a packet, into the register numbered from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// `NFPROTO_*` of the packet, 1 byte.
    Family,
    /// Its transport protocol, 1 byte.
    Protocol,
    /// Its source or destination address.
    Source(Part),
    Destination(Part),
    /// Its transport's destination port.
    DestinationPort,
    /// The destination port that the connection was opened to, before any rewriting.
    OriginalPort,
    /// `IPS_*` bits of its connection.
    ConnectionStatus,
    /// Index of the link that it came in by.
    InputLink,
    /// `RTN_*`: what kind of address its destination is.
    DestinationType,
}

/// A part of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Expression<'a> {
    Load(u32, Load),
    /// Register and mask: `register & mask`.
    Mask(u32, Vec<u8>),
    Equal(u32, Vec<u8>),
    Differs(u32, Vec<u8>),
    /// Looks the key in register 0 up and jumps where the map leads; goes on if it is not there.
    JumpBy(&'a str, u32),
    /// Looks the key in register 0 up and puts the data into register 0; ends the rule if it is not there.
    Map(&'a str, u32),
    /// To the address in register 0 and the port in the register with that number.
    Dnat(Part, u32),
    Masquerade,
    Return,
    Drop,
}

fn expression(m: Message, name: &str, inside: impl FnOnce(Message) -> Message) -> Message {
    m.nest(LIST_ELEM, |m| m.text(EXPR_NAME, name).nest(EXPR_DATA, inside))
}

/// `NFTA_PAYLOAD_{DREG,BASE,OFFSET,LEN}`; base 1 = network header, 2 = transport header.
fn payload(m: Message, register: u32, base: u32, offset: u32, length: u32) -> Message {
    expression(m, "payload", |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
}

/// `NFTA_META_{DREG,KEY}`
fn meta(m: Message, register: u32, key: u32) -> Message {
    expression(m, "meta", |m| m.be32(1, register).be32(2, key))
}

fn load(m: Message, register: u32, what: Load) -> Message {
    let register = REG + register;
    match what {
        Load::Family => meta(m, register, 15),   // NFT_META_NFPROTO
        Load::Protocol => meta(m, register, 16), // NFT_META_L4PROTO
        Load::InputLink => meta(m, register, 4), // NFT_META_IIF
        Load::Source(Part::Ipv6) => payload(m, register, 1, 8, 16),
        Load::Source(_) => payload(m, register, 1, 12, 4),
        Load::Destination(Part::Ipv6) => payload(m, register, 1, 24, 16),
        Load::Destination(_) => payload(m, register, 1, 16, 4),
        Load::DestinationPort => payload(m, register, 2, 2, 2),
        // NFTA_CT_{DREG,KEY,DIRECTION}: NFT_CT_PROTO_DST of the original direction; NFT_CT_STATUS
        Load::OriginalPort => expression(m, "ct", |m| m.be32(1, register).be32(2, 12).u8(3, 0)),
        Load::ConnectionStatus => expression(m, "ct", |m| m.be32(1, register).be32(2, 2)),
        // NFTA_FIB_{DREG,RESULT,FLAGS}: NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
        Load::DestinationType => expression(m, "fib", |m| m.be32(1, register).be32(2, 3).be32(3, 2)),
    }
}

/// `NFTA_CMP_{SREG,OP,DATA}`
fn compare(m: Message, register: u32, operator: u32, value: &[u8]) -> Message {
    expression(m, "cmp", |m| {
        m.be32(1, REG + register).be32(2, operator).nest(3, |m| m.attr(DATA_VALUE, value))
    })
}

/// `NFTA_BITWISE_{SREG,DREG,LEN,MASK,XOR}`
fn mask(m: Message, register: u32, mask: &[u8]) -> Message {
    let length = u32::try_from(mask.len()).expect("a mask is as long as an address");
    expression(m, "bitwise", |m| {
        m.be32(1, REG + register)
            .be32(2, REG + register)
            .be32(3, length)
            .nest(4, |m| m.attr(DATA_VALUE, mask))
            .nest(5, |m| m.attr(DATA_VALUE, &vec![0; mask.len()]))
    })
}

/// `NFTA_LOOKUP_{SET,SREG,DREG,SET_ID}`
fn lookup(m: Message, map: &str, id: u32, to: u32) -> Message {
    expression(m, "lookup", |m| m.text(1, map).be32(2, REG).be32(3, to).be32(4, id))
}

/// `NFTA_IMMEDIATE_{DREG,DATA}` into the register of verdicts.
fn end(m: Message, code: i32) -> Message {
    expression(m, "immediate", |m| m.be32(1, 0).nest(2, |m| verdict(m, code, None)))
}

/// `NFTA_NAT_{TYPE,FAMILY,REG_ADDR_MIN,REG_PROTO_MIN}`; NFT_NAT_DNAT is 1.
fn dnat(m: Message, family: Part, port: u32) -> Message {
    let number = if matches!(family, Part::Ipv6) { 10 } else { 2 };
    expression(m, "nat", |m| m.be32(1, 1).be32(2, number).be32(3, REG).be32(5, REG + port))
}

/// Appends a rule to a chain.
pub(crate) fn add_rule(table: &str, chain: &str, parts: &[Expression<'_>]) -> Message {
    message(NEWRULE, CREATE | APPEND).text(RULE_TABLE, table).text(RULE_CHAIN, chain).nest(
        RULE_EXPRESSIONS,
        |m| {
            parts.iter().fold(m, |m, part| match part {
                Expression::Load(register, what) => load(m, *register, *what),
                Expression::Mask(register, bytes) => mask(m, *register, bytes),
                Expression::Equal(register, value) => compare(m, *register, 0, value),
                Expression::Differs(register, value) => compare(m, *register, 1, value),
                Expression::JumpBy(map, id) => lookup(m, map, *id, 0), // NFT_REG_VERDICT
                Expression::Map(map, id) => lookup(m, map, *id, REG),
                Expression::Dnat(family, port) => dnat(m, *family, *port),
                Expression::Masquerade => expression(m, "masq", |m| m),
                Expression::Return => end(m, RETURN),
                Expression::Drop => end(m, DROP),
            })
        },
    )
}
