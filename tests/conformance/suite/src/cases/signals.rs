//! Stop signals: each that the CRI names, from the request to the process and back into the status.

use crate::{
    case::{Case, case, is, skip},
    story::{ContainerWords as _, Test},
};
use anyhow::{Context as _, Result};
use api::cri::Signal;

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut all: Vec<_> = (1..=200)
        .filter_map(|number| Signal::try_from(number).ok())
        .filter(|signal| number(*signal).is_some())
        .map(|signal| {
            case(
                format!("signals: stop with {}", signal.as_str_name()),
                "KEP-4960; CRI ContainerConfig.stop_signal",
                "c.stop_signal cs.stop_signal",
                move |t: Test| async move { stopped_by(&t, signal).await },
            )
        })
        .collect();
    all.push(case(
        "signals: unless asked it is SIGTERM",
        "KEP-4960; CRI SIGNAL_RUNTIME_DEFAULT",
        "cs.stop_signal",
        |t: Test| async move {
            let c = t.container(|c| c.script(&script(15))).await?;
            c.logged("up").await?;
            is("in the status", c.status().await?.stop_signal(), Signal::Sigterm)?;
            c.stop(20).await?;
            c.ended_with(1).await.map(|_| ())
        },
    ));
    all.push(case(
        "signals: the request's goes before the image's",
        "KEP-4960",
        "c.stop_signal",
        |t: Test| async move {
            let id = crate::cases::images::kept(&t, "config:stopsignal").await?;
            let c = t
                .container(|c| {
                    c.image.get_or_insert_default().image = id;
                    c.stop_signal = Signal::Sigint.into();
                    c.script(&script(2));
                })
                .await?;
            c.logged("up").await?;
            c.stop(20).await?;
            c.ended_with(1).await.map(|_| ())
        },
    ));
    all
}

/// A script that ends with 1 when that signal comes.
fn script(number: i32) -> String {
    format!("trap 'exit 1' {number}; echo up; while :; do sleep 0.05; done")
}

/// Its number on Linux, for the machines that peapod runs on.
fn number(signal: Signal) -> Option<i32> {
    let name = signal.as_str_name().trim_start_matches("SIGNAL_").trim_start_matches("SIG");
    if let Some(plus) = name.strip_prefix("RTMINPLUS") {
        return Some(34 + plus.parse::<i32>().ok()?);
    }
    if let Some(minus) = name.strip_prefix("RTMAXMINUS") {
        return Some(64 - minus.parse::<i32>().ok()?);
    }
    Some(match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" | "IOT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "STKFLT" => 16,
        "CHLD" | "CLD" => 17,
        "CONT" => 18,
        "STOP" => 19,
        "TSTP" => 20,
        "TTIN" => 21,
        "TTOU" => 22,
        "URG" => 23,
        "XCPU" => 24,
        "XFSZ" => 25,
        "VTALRM" => 26,
        "PROF" => 27,
        "WINCH" => 28,
        "IO" | "POLL" => 29,
        "PWR" => 30,
        "SYS" | "UNUSED" => 31,
        "RTMIN" => 34,
        "RTMAX" => 64,
        _none => return None,
    })
}

async fn stopped_by(t: &Test, signal: Signal) -> Result<()> {
    let number = number(signal).context("a number")?;
    if number == 17 {
        // A shell cannot tell it from the end of its own child.
        let c = t.container(|c| c.stop_signal = signal.into()).await?;
        is("in the status", c.status().await?.stop_signal(), signal)?;
        c.stop(1).await?;
        return c.ended_with(137).await.map(|_| ());
    }
    let c = t
        .container(|c| {
            c.stop_signal = signal.into();
            c.script(&script(number));
        })
        .await?;
    c.logged("up").await?;
    is("in the status", c.status().await?.stop_signal(), signal)?;
    // SIGKILL cannot be caught, SIGSTOP only stops: after the grace it is killed.
    if number == 19 {
        c.stop(1).await?;
        return c.ended_with(137).await.map(|_| ());
    }
    c.stop(20).await?;
    match number {
        9 => c.ended_with(137).await.map(|_| ()),
        11 | 4 | 8 | 7 if c.status().await?.exit_code == 128 + number => skip("the shell does not catch it"),
        _other => c.ended_with(1).await.map(|_| ()),
    }
}
