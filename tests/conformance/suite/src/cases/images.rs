//! Images: pull, identity, status, list, removal, credentials, and what a registry must not get away with.

use crate::{
    case::{Case, between, case, has, holds, is, refused},
    registry,
    story::{ContainerWords as _, Test, map, words},
};
use anyhow::{Context as _, Result};
use api::cri::{self, AuthConfig};
use std::time::{Duration, Instant};
use tonic::Code;

/// The cases.
pub fn cases() -> Vec<Case> {
    [identity(), forms(), configured(), credentials(), broken(), removal(), disk()].concat()
}

/// Pulls an image that several cases use and none removes; its id.
///
/// # Errors
/// The runtime's.
pub async fn kept(t: &Test, name: &str) -> Result<String> {
    let request = cri::PullImageRequest { image: Some(t.spec(name)), ..Default::default() };
    Ok(t.images().pull_image(request).await?.into_inner().image_ref)
}

async fn image(t: &Test, reference: &str) -> Result<cri::Image> {
    t.image_status(reference).await?.with_context(|| format!("no image {reference}"))
}

/// The container as the list has it.
async fn listed(t: &Test, id: &str) -> Result<cri::Container> {
    let filter = cri::ContainerFilter { id: id.to_owned(), ..Default::default() };
    let found = crate::cases::lists::containers(t, filter).await?;
    found.into_iter().next().context("the container is not in the list")
}

fn identity() -> Vec<Case> {
    const FOUR: &str = "contract 0.5: one identifier; critest Image Identifier Consistency";
    vec![
        case(
            "images: a pull gives the id that the status has, the config's digest",
            FOUR,
            "PullImageRequest.image.image PullImageResponse.image_ref ImageStatusRequest.image.image Image.id",
            |t: Test| async move {
                let id = t.pull("single-0:1").await?;
                is("image_ref", &id, &t.world.registry.id("single-0:1")?)?;
                is("Image.id", image(&t, &t.spec("single-0:1").image).await?.id, id)
            },
        ),
        case(
            "images: of a container's image nothing is told that was not asked for",
            "CRI ImageSpec",
            "cs.image.annotations cs.image.runtime_handler cs.image.image_ref Container.image.annotations Container.image.runtime_handler Container.image.image_ref",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let status = c.status().await?.image.context("no image in the status")?;
                let listed = listed(&t, &c.id).await?.image.context("no image in the list")?;
                for (place, spec) in [("the status", status), ("the list", listed)] {
                    is(&format!("annotations in {place}"), spec.annotations.len(), 0)?;
                    is(&format!("runtime_handler in {place}"), spec.runtime_handler, "")?;
                    is(&format!("image_ref in {place}"), spec.image_ref, "")?;
                }
                Ok(())
            },
        ),
        case(
            "images: a container's image ids are that one",
            FOUR,
            "Container.image_id cs.image_id cs.image_ref cs.image.image Container.image.image Container.image_ref",
            |t: Test| async move {
                let id = t.world.busybox.clone();
                let c = t.container(|_| {}).await?;
                let status = c.status().await?;
                is("ContainerStatus.image_id", &status.image_id, &id)?;
                for reference in [status.image_ref, status.image.unwrap_or_default().image] {
                    is(
                        &format!("the image {reference:?} of the status"),
                        &image(&t, &reference).await?.id,
                        &id,
                    )?;
                }
                let listed = listed(&t, &c.id).await?;
                is("Container.image_id", &listed.image_id, &id)?;
                for reference in [listed.image_ref, listed.image.unwrap_or_default().image] {
                    is(
                        &format!("the image {reference:?} of the list"),
                        &image(&t, &reference).await?.id,
                        &id,
                    )?;
                }
                Ok(())
            },
        ),
        case(
            "images: id, tag and digest name the same image",
            "contract A.2 ImageStatus; critest Image Manager",
            "ImageStatusRequest.image.image Image.id Image.repo_tags Image.repo_digests Image.size",
            |t: Test| async move {
                let id = t.pull("single-1:1").await?;
                let tag = t.spec("single-1:1").image;
                let digest =
                    format!("{}@{}", t.spec("single-1").image, t.world.registry.digest("single-1", "1")?);
                let by_id = image(&t, &id).await?;
                is("its id", &by_id.id, &id)?;
                is("by tag", &image(&t, &tag).await?, &by_id)?;
                is("by digest", &image(&t, &digest).await?, &by_id)?;
                is("by the hexadecimal part", &image(&t, id.trim_start_matches("sha256:")).await?, &by_id)?;
                is("repo_tags", by_id.repo_tags, vec![tag])?;
                is("repo_digests", by_id.repo_digests, vec![digest])?;
                between("size", by_id.size, 100_000, 50_000_000)
            },
        ),
        case(
            "images: a pull by digest has no tag",
            "critest Image Manager: digest",
            "PullImageRequest.image.image Image.repo_tags Image.repo_digests",
            |t: Test| async move {
                let digest =
                    format!("{}@{}", t.spec("single-2").image, t.world.registry.digest("single-2", "1")?);
                let image_spec = cri::ImageSpec { image: digest.clone(), ..Default::default() };
                let id = t
                    .try_pull(cri::PullImageRequest { image: Some(image_spec), ..Default::default() })
                    .await?;
                let image = image(&t, &id).await?;
                is("repo_tags", image.repo_tags, Vec::<String>::new())?;
                is("repo_digests", image.repo_digests, vec![digest])
            },
        ),
        case(
            "images: a reference without a tag means latest",
            "critest Image Manager: no tag",
            "PullImageRequest.image.image",
            |t: Test| async move {
                let id = t.pull("single-3").await?;
                is("the image", &id, &t.world.registry.id("single-3:latest")?)?;
                is("repo_tags", image(&t, &id).await?.repo_tags, vec![t.spec("single-3:latest").image])
            },
        ),
        case(
            "images: three tags are one image",
            "critest Image Manager: 3 tags = 1 image",
            "Image.repo_tags",
            |t: Test| async move {
                let mut ids = Vec::new();
                for name in ["tags:a", "tags:b", "tags:c", "other-tags:a"] {
                    ids.push(t.pull(name).await?);
                }
                ids.dedup();
                is("ids", ids.len(), 1)?;
                let mut tags = image(&t, &ids[0]).await?.repo_tags;
                tags.sort();
                let mut expected: Vec<_> =
                    ["tags:a", "tags:b", "tags:c", "other-tags:a"].map(|name| t.spec(name).image).to_vec();
                expected.sort();
                is("repo_tags", tags, expected)
            },
        )
        .alone(),
        case(
            "images: an absent image is no error",
            "CRI ImageStatus; contract A.2",
            "ImageStatusRequest.image.image",
            |t: Test| async move {
                is("the status", t.image_status(&t.spec("nowhere:1").image).await?, None)?;
                is("an unknown id", t.image_status(&format!("sha256:{}", "0".repeat(64))).await?, None)
            },
        ),
        case(
            "images: verbose status has information as JSON",
            "CRI ImageStatusRequest.verbose",
            "ImageStatusRequest.verbose ImageStatusResponse.info",
            |t: Test| async move {
                let request = |verbose| {
                    let image = cri::ImageSpec { image: t.world.busybox.clone(), ..Default::default() };
                    cri::ImageStatusRequest { image: Some(image), verbose }
                };
                is(
                    "unless asked",
                    t.images().image_status(request(false)).await?.into_inner().info.len(),
                    0,
                )?;
                let info = t.images().image_status(request(true)).await?.into_inner().info;
                let info: serde_json::Value =
                    serde_json::from_str(info.get("info").context("no info.info")?)?;
                holds("the image's configuration is in it", info["imageSpec"]["config"].is_object())
            },
        ),
        case(
            "images: annotations, a handler and the name in the pod's spec come with a pull",
            "CRI ImageSpec; KEP-4216, KEP-5365",
            "PullImageRequest.image.annotations PullImageRequest.image.user_specified_image PullImageRequest.image.image_ref",
            |t: Test| async move {
                let mut image = t.spec("single-4:1");
                image.annotations = map(&[("note", "x")]);
                image.user_specified_image = "single-4".to_owned();
                image.image_ref = "ignored".to_owned();
                let id =
                    t.try_pull(cri::PullImageRequest { image: Some(image), ..Default::default() }).await?;
                is("image_ref", id, t.world.registry.id("single-4:1")?)
            },
        ),
        case(
            "images: a pull for a handler",
            "KEP-4216; CRI ImageSpec.runtime_handler",
            "PullImageRequest.image.runtime_handler",
            |t: Test| async move {
                let mut image = t.spec("single-5:1");
                image.runtime_handler =
                    t.world.handlers.iter().find(|name| !name.is_empty()).context("no handler")?.clone();
                t.try_pull(cri::PullImageRequest { image: Some(image), ..Default::default() }).await?;
                Ok(())
            },
        ),
        case(
            "images: a pull for an unknown handler is refused",
            "contract B.2: unknown -> reject",
            "PullImageRequest.image.runtime_handler",
            |t: Test| async move {
                let mut image = t.spec("single-5:latest");
                image.runtime_handler = "no-such-handler".to_owned();
                let tried =
                    t.try_pull(cri::PullImageRequest { image: Some(image), ..Default::default() }).await;
                refused("the pull", tried, &[]).map(|_| ())
            },
        ),
        case(
            "images: a pull with the pod's configuration",
            "CRI PullImageRequest.sandbox_config",
            "PullImageRequest.image.image",
            |t: Test| async move {
                let request = cri::PullImageRequest {
                    image: Some(t.spec("single-6:1")),
                    sandbox_config: Some(t.pod_config()),
                    auth: None,
                };
                is("image_ref", t.try_pull(request).await?, t.world.registry.id("single-6:1")?)
            },
        ),
    ]
}

fn forms() -> Vec<Case> {
    let mut all: Vec<_> = ["oci", "index", "docker", "list"]
        .into_iter()
        .map(|form| {
            case(
                format!("images: a manifest of the form {form}"),
                "OCI image spec; Docker manifest schema 2",
                "PullImageRequest.image.image",
                move |t: Test| async move {
                    let name = format!("form:{form}");
                    let id = t.pull(&name).await?;
                    is("image_ref", &id, &t.world.registry.id(&name)?)?;
                    let c = t.container(|c| c.image.get_or_insert_default().image = id).await?;
                    is("a container of it", c.sh("echo $FORM").await?, name)?;
                    c.pod.remove().await?;
                    Ok(())
                },
            )
        })
        .collect();
    all.push(case(
        "images: layers lie over one another",
        "OCI image layer: whiteouts, opaque directories, hard links",
        "",
        |t: Test| async move {
            let id = kept(&t, "layers:1").await?;
            let c = t.container(|c| c.image.get_or_insert_default().image = id).await?;
            is(
                "the directory",
                c.sh("ls -A /data | tr '\\n' ' '").await?.trim(),
                "hard opaque owned replaced",
            )?;
            is("replaced", c.sh("cat /data/replaced; stat -c %a /data/replaced").await?, "over600")?;
            is("opaque", c.sh("ls -A /data/opaque").await?, "over")?;
            is("owned", c.sh("stat -c %u:%g:%a:%h /data/owned").await?, "1000:2000:640:2")
        },
    ));
    all.push(
        case(
            "images: the same pull at once fetches once",
            "contract A.2 PullImage",
            "PullImageRequest.image.image",
            |t: Test| async move {
                let (a, b, c, d) = tokio::join!(
                    t.pull("slow/layers:2"),
                    t.pull("slow/layers:2"),
                    t.pull("slow/layers:2"),
                    t.pull("slow/layers:2")
                );
                is(
                    "the ids",
                    [b?, c?, d?],
                    [(); 3].map(|()| a.as_ref().map_or(String::new(), Clone::clone)),
                )?;
                // One config and one layer.
                between("blobs fetched", t.world.registry.fetched("slow/layers"), 2, 2)
            },
        )
        .alone(),
    );
    all.push(
        case(
            "images: a deadline is kept",
            "critest Image Manager: 1 ms -> DeadlineExceeded",
            "PullImageRequest.image.image",
            |t: Test| async move {
                let mut request = tonic::Request::new(cri::PullImageRequest {
                    image: Some(t.spec("slow/layers:1")),
                    ..Default::default()
                });
                request.set_timeout(Duration::from_millis(1));
                let began = Instant::now();
                // The client's own clock may say it as Cancelled.
                refused(
                    "the pull",
                    t.images().pull_image(request).await,
                    &[Code::DeadlineExceeded, Code::Cancelled],
                )?;
                between("seconds", began.elapsed().as_secs_f64(), 0.0, 2.0)?;
                is("the image", t.image_status(&t.spec("slow/layers:1").image).await?, None)
            },
        )
        .alone(),
    );
    all
}

fn configured() -> Vec<Case> {
    const SOURCE: &str = "OCI image config; CRI ContainerConfig.command, args";
    let says = |name: &'static str,
                tag: &'static str,
                command: &'static [&str],
                args: &'static [&str],
                expected: &'static str| {
        case(
            name,
            SOURCE,
            if command.is_empty() { if args.is_empty() { "" } else { "c.args" } } else { "c.command" },
            move |t: Test| async move {
                let id = kept(&t, &format!("config:{tag}")).await?;
                let c = t
                    .container(|c| {
                        c.image.get_or_insert_default().image = id;
                        c.command = words(command);
                        c.args = words(args);
                    })
                    .await?;
                c.ended_with(0).await?;
                is("the log", c.log().await?, expected)
            },
        )
    };
    vec![
        says("images: entrypoint and cmd of the image", "entrypoint", &[], &[], "from-entrypoint from-cmd"),
        says(
            "images: arguments replace the image's cmd",
            "entrypoint",
            &[],
            &["mine"],
            "from-entrypoint mine",
        ),
        says(
            "images: a command replaces entrypoint and cmd",
            "entrypoint",
            &["/bin/echo", "alone"],
            &[],
            "alone",
        ),
        says("images: a cmd without an entrypoint", "cmd", &[], &[], "only-cmd"),
        case("images: nothing to run is refused", SOURCE, "", |t: Test| async move {
            let id = kept(&t, "config:nothing").await?;
            let pod = t.pod().await?;
            let tried = pod
                .try_run(|c| {
                    c.image.get_or_insert_default().image = id;
                    c.command.clear();
                })
                .await;
            refused("the container", tried, &[]).map(|_| ())
        }),
        case(
            "images: the environment of the image, and the request's over it",
            SOURCE,
            "c.envs.key c.envs.value",
            |t: Test| async move {
                let id = kept(&t, "config:env").await?;
                let c = t
                    .container(|c| {
                        c.image.get_or_insert_default().image = id;
                        c.envs = vec![cri::KeyValue { key: "BOTH".to_owned(), value: b"request".to_vec() }];
                    })
                    .await?;
                is("its words", c.sh("echo $FROM_IMAGE $BOTH ${EMPTY-unset}").await?, "yes request")
            },
        ),
        case("images: the working directory of the image is made", SOURCE, "", |t: Test| async move {
            let id = kept(&t, "config:workdir").await?;
            let c = t.container(|c| c.image.get_or_insert_default().image = id).await?;
            is("pwd", c.sh("pwd").await?, "/made/for/this")
        }),
        case(
            "images: the stop signal of the image",
            "OCI image config StopSignal",
            "cs.stop_signal",
            |t: Test| async move {
                let id = kept(&t, "config:stopsignal").await?;
                let c = t
                    .container(|c| {
                        c.image.get_or_insert_default().image = id;
                        c.script(
                            "trap 'exit 31' USR1; trap 'exit 32' TERM; echo up; while :; do sleep 0.1; done",
                        );
                    })
                    .await?;
                c.logged("up").await?;
                is("in the status", c.status().await?.stop_signal(), cri::Signal::Sigusr1)?;
                c.stop(20).await?;
                c.ended_with(31).await.map(|_| ())
            },
        ),
        case("images: a stop signal by number", "OCI image config StopSignal", "", |t: Test| async move {
            let id = kept(&t, "config:stopnumber").await?;
            let c = t
                .container(|c| {
                    c.image.get_or_insert_default().image = id;
                    c.script(
                        "trap 'exit 33' USR2; trap 'exit 32' TERM; echo up; while :; do sleep 0.1; done",
                    );
                })
                .await?;
            c.logged("up").await?;
            c.stop(20).await?;
            c.ended_with(33).await.map(|_| ())
        }),
        case(
            "images: volumes of the image are writable directories",
            "OCI image config Volumes; Docker",
            "",
            |t: Test| async move {
                let id = kept(&t, "config:volume").await?;
                let c = t.container(|c| c.image.get_or_insert_default().image = id).await?;
                c.sh("touch /a/volume/x").await?;
                // What the image has there is still to be seen.
                has("/etc", &c.sh("cat /etc/passwd").await?, "alice")
            },
        ),
        case(
            "images: the user of the image is in its status",
            "CRI Image.uid, username; critest Image Manager",
            "Image.uid.value Image.username",
            |t: Test| async move {
                for (tag, uid, name) in [
                    ("uid", Some(1002), ""),
                    ("username", None, "alice"),
                    ("uid-gid", Some(1003), ""),
                    ("username-group", None, "alice"),
                ] {
                    let image = image(&t, &kept(&t, &format!("user:{tag}")).await?).await?;
                    is(&format!("uid of user:{tag}"), image.uid.map(|uid| uid.value), uid)?;
                    is(&format!("username of user:{tag}"), image.username, name)?;
                }
                Ok(())
            },
        ),
        case(
            "images: what is not pinned says so",
            "CRI Image.pinned",
            "Image.pinned",
            |t: Test| async move { is("pinned", image(&t, &t.world.busybox).await?.pinned, false) },
        ),
        case(
            "images: the name in the pod's spec comes with a container",
            "CRI ImageSpec.user_specified_image",
            "c.image.user_specified_image cs.image.user_specified_image Container.image.user_specified_image",
            |t: Test| async move {
                let named = t.spec("busybox:1").image;
                let change = |c: &mut cri::ContainerConfig| {
                    c.image.get_or_insert_default().user_specified_image = named.clone()
                };
                let c = t.container(change).await?;
                let status = c.status().await?.image.unwrap_or_default();
                is("in the status", status.user_specified_image, named.as_str())?;
                let listed = listed(&t, &c.id).await?.image.unwrap_or_default();
                is("in the list", listed.user_specified_image, named.as_str())
            },
        ),
        case(
            "images: annotations, handler and reference of a container's image",
            "CRI ImageSpec; KEP-4216, KEP-5365",
            "c.image.annotations c.image.runtime_handler c.image.image_ref",
            |t: Test| async move {
                let handler =
                    t.world.handlers.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
                let digest = t.world.registry.digest("busybox", "1")?;
                let c = t
                    .container(|c| {
                        let image = c.image.get_or_insert_default();
                        image.annotations = map(&[("note", "x")]);
                        image.runtime_handler = handler;
                        image.image_ref = digest;
                    })
                    .await?;
                is("it runs", c.sh("echo works").await?, "works")
            },
        ),
        case(
            "images: a container of an image that is not there is refused",
            "CRI CreateContainer",
            "c.image.image",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod
                    .try_run(|c| c.image.get_or_insert_default().image = format!("sha256:{}", "0".repeat(64)))
                    .await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "images: an image by its tag will do for a container",
            "CRI ImageSpec.image",
            "c.image.image",
            |t: Test| async move {
                let tag = t.spec("busybox:1").image;
                let c = t.container(|c| c.image.get_or_insert_default().image = tag).await?;
                is("image_id", c.status().await?.image_id, t.world.busybox.clone())
            },
        ),
    ]
}

fn credentials() -> Vec<Case> {
    const SOURCE: &str = "CRI AuthConfig; contract B.4";
    type Credentials = fn(&Test) -> AuthConfig;
    let basic: Credentials = |_| AuthConfig {
        username: registry::USER.to_owned(),
        password: registry::PASSWORD.to_owned(),
        ..Default::default()
    };
    let with = |name: &'static str, image: &'static str, fields: &'static str, auth: Credentials| {
        case(name, SOURCE, fields, move |t: Test| async move {
            let without =
                t.try_pull(cri::PullImageRequest { image: Some(t.spec(image)), ..Default::default() }).await;
            refused("a pull without", without, &[])?;
            let request = cri::PullImageRequest {
                image: Some(t.spec(image)),
                auth: Some(auth(&t)),
                sandbox_config: None,
            };
            is("image_ref", t.try_pull(request).await?, t.world.registry.id(image)?)
        })
    };
    vec![
        with(
            "images: a name and a password",
            "private/basic:0",
            "PullImageRequest.auth.username PullImageRequest.auth.password",
            basic,
        ),
        with(
            "images: a name and a password for a token",
            "private/token:0",
            "PullImageRequest.auth.username PullImageRequest.auth.password",
            basic,
        ),
        with(
            "images: name and password in one word",
            "private/basic:1",
            "PullImageRequest.auth.auth",
            |_| AuthConfig {
                auth: {
                    use base64::{Engine as _, engine::general_purpose::STANDARD};
                    STANDARD.encode(format!("{}:{}", registry::USER, registry::PASSWORD))
                },
                ..Default::default()
            },
        ),
        with(
            "images: an identity for a token",
            "private/token:1",
            "PullImageRequest.auth.identity_token",
            |_| AuthConfig { identity_token: registry::IDENTITY_TOKEN.to_owned(), ..Default::default() },
        ),
        with(
            "images: a token of the registry",
            "private/given:0",
            "PullImageRequest.auth.registry_token",
            |_| AuthConfig { registry_token: registry::REGISTRY_TOKEN.to_owned(), ..Default::default() },
        ),
        with(
            "images: credentials of that server",
            "private/basic:2",
            "PullImageRequest.auth.server_address",
            |t| AuthConfig {
                username: registry::USER.to_owned(),
                password: registry::PASSWORD.to_owned(),
                server_address: format!("http://{}", t.world.registry.image("").trim_end_matches('/')),
                ..Default::default()
            },
        ),
        case(
            "images: credentials of another server are not sent",
            SOURCE,
            "PullImageRequest.auth.server_address",
            |t: Test| async move {
                let auth = AuthConfig {
                    username: registry::USER.to_owned(),
                    password: registry::PASSWORD.to_owned(),
                    server_address: "https://elsewhere.example".to_owned(),
                    ..Default::default()
                };
                let request = cri::PullImageRequest {
                    image: Some(t.spec("private/basic:3")),
                    auth: Some(auth),
                    sandbox_config: None,
                };
                refused("the pull", t.try_pull(request).await, &[]).map(|_| ())
            },
        ),
        case(
            "images: a wrong password is refused and not said again",
            "safety: errors hold no credential",
            "PullImageRequest.auth.password",
            |t: Test| async move {
                let auth = AuthConfig {
                    username: registry::USER.to_owned(),
                    password: "wrong-and-secret".to_owned(),
                    ..Default::default()
                };
                let request = cri::PullImageRequest {
                    image: Some(t.spec("private/basic:3")),
                    auth: Some(auth),
                    sandbox_config: None,
                };
                let text = refused("the pull", t.try_pull(request).await, &[])?;
                crate::case::lacks("the error", &text, "wrong-and-secret")
            },
        ),
    ]
}

fn broken() -> Vec<Case> {
    let pull = |name: &'static str, image: &'static str, source: &'static str, part: &'static str| {
        case(name, source, "PullImageRequest.image.image", move |t: Test| async move {
            let mut spec = t.spec(image);
            if image.starts_with("not ") {
                spec.image = image.to_owned();
            }
            let tried =
                t.try_pull(cri::PullImageRequest { image: Some(spec.clone()), ..Default::default() }).await;
            let text = refused("the pull", tried, &[])?;
            has("the error", &text, part)?;
            is("the image", t.image_status(&t.spec(image).image).await.unwrap_or(None), None)
        })
    };
    vec![
        pull(
            "images: a layer that is not its digest is refused",
            "broken/layer:1",
            "OCI image descriptor: verify",
            "",
        ),
        pull(
            "images: a layer that is not its diff ID is refused",
            "broken/diffid:1",
            "OCI image config rootfs.diff_ids: verify",
            "",
        ),
        pull("images: a manifest that is no JSON is refused", "broken/manifest:1", "OCI image manifest", ""),
        pull("images: a registry that is not available", "broken/unavailable:1", "cri-api errors", ""),
        pull("images: a repository that is not there", "nowhere:1", "CRI PullImage", ""),
        pull("images: a tag that is not there", "busybox:none", "CRI PullImage", ""),
        pull("images: a reference that is none", "not a reference", "distribution reference", ""),
    ]
}

fn removal() -> Vec<Case> {
    const SOURCE: &str = "CRI RemoveImage; critest Image Manager";
    let remove = |t: &Test, reference: String| {
        let image = cri::ImageSpec { image: reference, ..Default::default() };
        let mut images = t.images();
        async move { images.remove_image(cri::RemoveImageRequest { image: Some(image) }).await.map(|_| ()) }
    };
    vec![
        case(
            "images: removed by tag, and gone",
            SOURCE,
            "RemoveImageRequest.image.image RemoveImageResponse",
            move |t: Test| async move {
                let id = t.pull("single-7:1").await?;
                remove(&t, t.spec("single-7:1").image).await?;
                is("by tag", t.image_status(&t.spec("single-7:1").image).await?, None)?;
                is("by id", t.image_status(&id).await?, None)?;
                remove(&t, t.spec("single-7:1").image).await.context("again")
            },
        ),
        case(
            "images: removed by id, and gone",
            SOURCE,
            "RemoveImageRequest.image.image",
            move |t: Test| async move {
                let id = t.pull("single-8:1").await?;
                remove(&t, id.clone()).await?;
                is("by id", t.image_status(&id).await?, None)?;
                remove(&t, id).await.context("again")
            },
        ),
        case(
            "images: one tag removed removes all of its image",
            "contract A.2: removing one tag removes all tags",
            "RemoveImageRequest.image.image",
            move |t: Test| async move {
                let id = t.pull("tags:a").await?;
                t.pull("tags:b").await?;
                t.pull("other-tags:a").await?;
                remove(&t, t.spec("tags:b").image).await?;
                is("by id", t.image_status(&id).await?, None)?;
                is("by another tag", t.image_status(&t.spec("other-tags:a").image).await?, None)
            },
        )
        .alone(),
        case(
            "images: an image that is not there can be removed",
            "critest Idempotence",
            "RemoveImageRequest.image.image",
            move |t: Test| async move {
                remove(&t, t.spec("nowhere:1").image).await?;
                remove(&t, format!("sha256:{}", "0".repeat(64))).await?;
                Ok(())
            },
        ),
        case(
            "images: several at once can remove one",
            "critest Image Consistency",
            "RemoveImageRequest.image.image",
            move |t: Test| async move {
                t.pull("single-9:1").await?;
                let name = t.spec("single-9:1").image;
                let (a, b, c) = tokio::join!(
                    remove(&t, name.clone()),
                    remove(&t, name.clone()),
                    remove(&t, name.clone())
                );
                a?;
                b?;
                c?;
                is("the image", t.image_status(&name).await?, None)
            },
        ),
        case(
            "images: a container lives on when its image is removed",
            "contract A.2; both peers",
            "RemoveImageRequest.image.image",
            move |t: Test| async move {
                let id = t.pull("single-10:1").await?;
                let c = t.container(|c| c.image.get_or_insert_default().image = id.clone()).await?;
                remove(&t, id).await?;
                is("a command in it", c.sh("cat /etc/passwd | wc -l").await?, "3")?;
                c.stop(0).await?;
                c.remove().await?;
                Ok(())
            },
        ),
        case(
            "images: other names come with a removal",
            "CRI ImageSpec",
            "RemoveImageRequest.image.annotations RemoveImageRequest.image.user_specified_image RemoveImageRequest.image.runtime_handler RemoveImageRequest.image.image_ref ImageStatusRequest.image.annotations ImageStatusRequest.image.user_specified_image ImageStatusRequest.image.runtime_handler ImageStatusRequest.image.image_ref",
            |t: Test| async move {
                t.pull("single-11:1").await?;
                let mut image = t.spec("single-11:1");
                image.annotations = map(&[("note", "x")]);
                image.user_specified_image = "single-11".to_owned();
                image.runtime_handler =
                    t.world.handlers.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
                image.image_ref = t.world.registry.digest("single-11", "1")?;
                let request = cri::ImageStatusRequest { image: Some(image.clone()), verbose: false };
                holds("the status", t.images().image_status(request).await?.into_inner().image.is_some())?;
                t.images().remove_image(cri::RemoveImageRequest { image: Some(image) }).await?;
                is("the image", t.image_status(&t.spec("single-11:1").image).await?, None)
            },
        ),
    ]
}

/// A file system of now, with at least so much in it.
fn filled(usage: &cri::FilesystemUsage, bytes: u64, inodes: u64) -> Result<()> {
    let now = crate::cases::sandbox::now();
    between("timestamp", usage.timestamp, now - 120_000_000_000, now)?;
    let point = usage.fs_id.clone().context("no fs_id")?.mountpoint;
    is(&format!("{point} is a directory"), std::path::Path::new(&point).is_dir(), true)?;
    between("used_bytes", usage.used_bytes.context("no used_bytes")?.value, bytes, 1 << 40)?;
    between("inodes_used", usage.inodes_used.context("no inodes_used")?.value, inodes, 1 << 30)
}

fn disk() -> Vec<Case> {
    vec![
        case(
            "images: the file system of images",
            "CRI ImageFsInfo; kubelet start-up",
            "ImageFsInfoRequest ImageFsInfoResponse.image_filesystems.timestamp ImageFsInfoResponse.image_filesystems.fs_id.mountpoint ImageFsInfoResponse.image_filesystems.used_bytes.value ImageFsInfoResponse.image_filesystems.inodes_used.value",
            |t: Test| async move {
                let answer = t.images().image_fs_info(cri::ImageFsInfoRequest {}).await?.into_inner();
                filled(answer.image_filesystems.first().context("no file system")?, 1 << 20, 10)
            },
        ),
        case(
            "images: the file system of containers",
            "KEP-4191; CRI ImageFsInfoResponse.container_filesystems",
            "ImageFsInfoResponse.container_filesystems.fs_id.mountpoint ImageFsInfoResponse.container_filesystems.timestamp ImageFsInfoResponse.container_filesystems.used_bytes.value ImageFsInfoResponse.container_filesystems.inodes_used.value",
            |t: Test| async move {
                let answer = t.images().image_fs_info(cri::ImageFsInfoRequest {}).await?.into_inner();
                filled(answer.container_filesystems.first().context("no file system")?, 0, 0)
            },
        ),
    ]
}
