//! Logs: the format of lines, both streams, long lines, rotation.

use crate::{
    case::{Case, case, has, holds, is, lacks, refused},
    story::{ContainerWords as _, Test, until},
};
use anyhow::{Context as _, Result};
use api::cri;
use tonic::Code;

const FORMAT: &str = "contract B.4: RFC3339Nano stream P|F text; critest Container log";

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case("logs: lines have time, stream, tag and text", FORMAT, "c.log_path cs.log_path", format),
        case("logs: the streams are apart", FORMAT, "c.log_path", |t: Test| async move {
            let c = t.container(|c| c.script("echo to out; echo to err >&2; exit 0")).await?;
            c.ended_with(0).await?;
            let log = until("both lines", || async {
                let log = c.raw_log().await?;
                Ok((log.lines().count() == 2).then_some(log))
            })
            .await?;
            holds("standard output", log.lines().any(|line| line.ends_with(" stdout F to out")))?;
            holds("standard error", log.lines().any(|line| line.ends_with(" stderr F to err")))
        }),
        case("logs: an empty line is a line", FORMAT, "c.log_path", |t: Test| async move {
            is("the texts", texts(&t, "echo a; echo; echo b").await?, vec!["a", "", "b"])
        }),
        case("logs: a line without an end is kept", FORMAT, "c.log_path", |t: Test| async move {
            is("the texts", texts(&t, "echo a; printf 'no end'").await?, vec!["a", "no end"])
        }),
        case(
            "logs: a long line is split, and can be put together",
            "contract B.4: long lines split with P",
            "c.log_path",
            long_line,
        ),
        case("logs: bytes are kept as they are", FORMAT, "c.log_path", |t: Test| async move {
            let c = t.container(|c| c.script("printf 'a\\tb \\001 \\377\\n'; exit 0")).await?;
            c.ended_with(0).await?;
            let path = c.log_path().await?;
            let bytes = until("the line", || async {
                let bytes = std::fs::read(&path)?;
                Ok(bytes.ends_with(b"\n").then_some(bytes))
            })
            .await?;
            holds("the bytes", bytes.ends_with(b" stdout F a\tb \x01 \xff\n"))
        }),
        case("logs: the order of many lines is kept", FORMAT, "c.log_path", |t: Test| async move {
            let texts = texts(&t, "seq 1 5000").await?;
            is("lines", texts.len(), 5000)?;
            is("their order", texts.iter().enumerate().all(|(n, text)| *text == (n + 1).to_string()), true)
        }),
        case(
            "logs: what was written last is there after the end",
            "contract G.19: no end marker lost",
            "c.log_path",
            |t: Test| async move {
                for _ in 0..3 {
                    let texts = texts(&t, "echo first; echo last").await?;
                    is("the last", texts.last().map(String::as_str), Some("last"))?;
                }
                Ok(())
            },
        ),
        case(
            "logs: without a path there is no file",
            "CRI ContainerConfig.log_path; contract B.2",
            "",
            |t: Test| async move {
                let pod = t.pod().await?;
                let c = pod
                    .run(|c| {
                        c.log_path = String::new();
                        c.script("echo nobody reads this; exit 0");
                    })
                    .await?;
                c.ended_with(0).await?;
                is("files", std::fs::read_dir(t.dir().join("logs"))?.count(), 0)
            },
        ),
        case(
            "logs: without a directory there is no file",
            "CRI PodSandboxConfig.log_directory; contract B.1",
            "",
            |t: Test| async move {
                let c = t.both(|p| p.log_directory = String::new(), |c| c.script("echo x; exit 0")).await?;
                c.ended_with(0).await.map(|_| ())
            },
        ),
        case(
            "logs: after a rotation the new file gets the lines",
            "CRI ReopenContainerLog; KEP-2411; critest Container log",
            "ReopenContainerLogRequest.container_id ReopenContainerLogResponse",
            rotation,
        ),
        case(
            "logs: a rotation under load loses no line",
            "contract G.19: lines cut at rotation",
            "ReopenContainerLogRequest.container_id",
            loaded_rotation,
        ),
        case(
            "logs: reopening an unknown container's log is NotFound",
            "CRI ReopenContainerLog",
            "ReopenContainerLogRequest.container_id",
            |t: Test| async move {
                let request = cri::ReopenContainerLogRequest { container_id: "0123456789abcdef".repeat(4) };
                refused("it", t.runtime().reopen_container_log(request).await, &[Code::NotFound]).map(|_| ())
            },
        ),
        case(
            "logs: reopening what does not run makes a file, or is refused and makes none",
            "CRI ReopenContainerLog: after an error no new file may exist",
            "ReopenContainerLogRequest.container_id",
            |t: Test| async move {
                let c = t.container(|c| c.script("echo x; exit 0")).await?;
                c.ended_with(0).await?;
                let path = c.log_path().await?;
                std::fs::rename(&path, path.with_extension("rotated"))?;
                let request = cri::ReopenContainerLogRequest { container_id: c.id.clone() };
                let made = t.runtime().reopen_container_log(request).await.is_ok();
                is("the new file", path.try_exists()?, made)
            },
        ),
        case(
            "logs: a link in the place of the log is not followed",
            "contract B.2: opened with O_NOFOLLOW",
            "c.log_path",
            |t: Test| async move {
                let target = t.dir().join("target");
                let pod = t.pod().await?;
                let mut config = pod.container_config();
                config.script("echo through the link; exit 0");
                std::os::unix::fs::symlink(&target, t.dir().join("logs").join(&config.log_path))?;
                if let Ok(c) = pod.create_from(config).await
                    && c.start().await.is_ok()
                {
                    c.ended().await?;
                }
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                lacks("what the link leads to", &text, "through the link")
            },
        ),
        case(
            "logs: a log path does not lead out of the directory",
            "safety: paths of a request",
            "c.log_path",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod.create(|c| c.log_path = "../../outside.log".to_owned()).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "logs: a terminal's lines are of standard output",
            "CRI ContainerConfig.tty",
            "c.tty",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.tty = true;
                        c.script("echo to out; echo to err >&2; exit 0");
                    })
                    .await?;
                c.ended_with(0).await?;
                let log = until("both lines", || async {
                    let log = c.raw_log().await?;
                    Ok((log.lines().count() >= 2).then_some(log))
                })
                .await?;
                holds("all are stdout", log.lines().all(|line| line.split(' ').nth(1) == Some("stdout")))?;
                has("the lines", &log, "to err")
            },
        ),
    ]
}

async fn format(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("echo hello there; sleep 1000; :")).await?;
    c.logged("hello there").await?;
    let log = c.raw_log().await?;
    let mut parts = log.trim_end_matches('\n').splitn(4, ' ');
    let time = parts.next().context("a time")?;
    is("stream", parts.next(), Some("stdout"))?;
    is("tag", parts.next(), Some("F"))?;
    is("text", parts.next(), Some("hello there"))?;
    // 2026-01-02T03:04:05.123456789Z, or with an offset.
    let bytes = time.as_bytes();
    holds(
        &format!("{time} is RFC3339Nano"),
        bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && bytes[19] == b'.',
    )?;
    holds(
        &format!("{time} has a zone"),
        time.ends_with('Z') || time.contains('+') || time[20..].contains('-'),
    )
}

/// The log's texts of a script that ends.
async fn texts(t: &Test, script: &str) -> Result<Vec<String>> {
    let c = t.container(|c| c.script(&format!("{script}; exit 0"))).await?;
    c.ended_with(0).await?;
    // It may be written a moment after the end is known: read until it stands still.
    let mut log = String::new();
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = c.log().await?;
        if now == log && !now.is_empty() {
            break;
        }
        log = now;
    }
    Ok(log.split('\n').map(str::to_owned).collect())
}

async fn long_line(t: Test) -> Result<()> {
    const LENGTH: usize = 100_000;
    let c = t
        .container(|c| c.script(&format!("yes | tr -d '\\n' | head -c {LENGTH}; echo; echo next; exit 0")))
        .await?;
    c.ended_with(0).await?;
    c.logged("next").await?;
    let log = c.raw_log().await?;
    let (mut whole, mut parts) = (String::new(), 0);
    for line in log.lines() {
        let mut words = line.splitn(4, ' ').skip(2);
        let (tag, text) = (words.next().context("a tag")?, words.next().context("a text")?);
        whole.push_str(text);
        parts += 1;
        if tag == "F" {
            break;
        }
        is("tag", tag, "P")?;
    }
    is("the line's length", whole.len(), LENGTH)?;
    holds("it was split", parts > 1)?;
    has("the next line", &log, " F next")
}

async fn rotation(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("n=0; while :; do echo line $n; n=$((n+1)); sleep 0.05; done")).await?;
    c.logged("line 2").await?;
    let path = c.log_path().await?;
    let old = path.with_extension("rotated");
    std::fs::rename(&path, &old)?;
    t.runtime().reopen_container_log(cri::ReopenContainerLogRequest { container_id: c.id.clone() }).await?;
    is("the new file is there at once", path.try_exists()?, true)?;
    let size = std::fs::metadata(&old)?.len();
    c.logged("line ").await?;
    is("the old file does not grow", std::fs::metadata(&old)?.len(), size)
}

async fn loaded_rotation(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("seq 1 60000; echo end; exit 0")).await?;
    let path = c.log_path().await?;
    let mut files = Vec::new();
    for n in 0..5 {
        let old = path.with_extension(format!("log.{n}"));
        if std::fs::rename(&path, &old).is_ok() {
            files.push(old);
            let request = cri::ReopenContainerLogRequest { container_id: c.id.clone() };
            if t.runtime().reopen_container_log(request).await.is_err() {
                // It has ended meanwhile; then the last file is that one.
                break;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    c.ended_with(0).await?;
    files.push(path);
    // It may have ended before the last rotation.
    let ended =
        |file: &std::path::PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.ends_with(" end\n"));
    until("the last line", || async { Ok(files.iter().any(ended).then_some(())) }).await?;
    let (mut numbers, mut begun) = (Vec::new(), String::new());
    for file in &files {
        for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
            let mut words = line.splitn(4, ' ').skip(2);
            let (tag, text) = (words.next().context("a tag")?, words.next().context("a text")?);
            begun.push_str(text);
            if tag == "F" {
                numbers.push(std::mem::take(&mut begun));
            }
        }
    }
    is("the last line", numbers.pop().as_deref(), Some("end"))?;
    is("lines", numbers.len(), 60_000)?;
    is("their order", numbers.iter().enumerate().all(|(n, text)| *text == (n + 1).to_string()), true)
}
