//! Users and groups of containers: from the request, from the image, merged or strict.

use crate::{
    case::{Case, case, has, is, refused},
    host,
    story::{Config as _, Container, ContainerWords as _, Test, number},
};
use anyhow::{Context as _, Result};
use api::cri::{self, LinuxContainerSecurityContext, SupplementalGroupsPolicy};

/// A user as it is: uid, gid, supplementary groups in order.
type Who = (u32, u32, Vec<u32>);

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut all = requested();
    for (tag, uid, gid, groups) in [
        ("uid", 1002, 0, &[0][..]),
        ("username", 1000, 1000, &[1000, 2000, 50000][..]),
        ("uid-gid", 1003, 1004, &[1004][..]),
        ("username-group", 1000, 2000, &[2000][..]),
        ("unlisted", 2_147_483_647, 0, &[0][..]),
    ] {
        let image = format!("user:{tag}");
        // The image's group replaces what /etc/group says only in some runtimes: the request's policy speaks of that.
        let loose = tag == "username-group";
        all.push(case(
            format!("users: the image's USER is taken ({tag})"),
            "OCI image config User; CRI LinuxContainerSecurityContext.run_as_user",
            "cs.user.linux.uid cs.user.linux.gid",
            move |t: Test| {
                let image = image.clone();
                async move {
                    let c = of_image(&t, &image, |_| {}).await?;
                    let (is_uid, is_gid, is_groups) = who(&c).await?;
                    is("uid and gid", (is_uid, is_gid), (uid, gid))?;
                    if loose { Ok(()) } else { is("groups", is_groups, groups.to_vec()) }
                }
            },
        ));
    }
    all.push(case(
        "users: a USER that the image does not know is refused",
        "OCI image config User; critest Image Manager",
        "",
        |t: Test| async move {
            refused("the container", of_image_tried(&t, "user:unknown", |_| {}).await?, &[]).map(|_| ())
        },
    ));
    all.push(case(
        "users: a USER that programs with signed ids would take for another is refused",
        "CVE-2024-40635: an image's uid above 2^31-1 became root",
        "",
        |t: Test| async move {
            refused("the container", of_image_tried(&t, "user:too-large", |_| {}).await?, &[]).map(|_| ())
        },
    ));
    all.push(case(
        "users: the request's user goes before the image's",
        "CRI run_as_user",
        "sc.run_as_user.value",
        |t: Test| async move {
            let c = of_image(&t, "user:username", |sc| sc.run_as_user = number(1001)).await?;
            is("uid", who(&c).await?.0, 1001)
        },
    ));
    all.push(case(
        "users: passwd and group are found behind links of the image",
        "contract B.2 run_as_username; containerd pkg/oci/utils_unix.go",
        "sc.run_as_username",
        |t: Test| async move {
            let c = of_image(&t, "links:1", |sc| sc.run_as_username = "carol".to_owned()).await?;
            is("she", who(&c).await?, (1500, 1501, vec![1501, 1600]))
        },
    ));
    all.push(case(
        "users: links of the image do not reach the host's passwd",
        "safety: paths of an image end inside its root",
        "sc.run_as_username",
        |t: Test| async move {
            // Of Debian's passwd, not of the image's.
            let tried =
                of_image_tried(&t, "links:outside", |sc| sc.run_as_username = "games".to_owned()).await?;
            refused("the host's user", tried, &[]).map(|_| ())
        },
    ));
    all
}

fn requested() -> Vec<Case> {
    const USER: &str = "CRI LinuxContainerSecurityContext.run_as_user; critest Security Context";
    const NAME: &str = "CRI run_as_username; critest RunAsUserName";
    const GROUP: &str = "CRI run_as_group; critest RunAsGroup";
    const POLICY: &str = "KEP-3619; CRI SupplementalGroupsPolicy; critest SupplementalGroupsPolicy";
    vec![
        ask("users: root unless asked", USER, "cs.user.linux.uid", |_| {}, (0, 0, &[0, 50000])),
        ask(
            "users: a uid of the image brings its groups",
            USER,
            "sc.run_as_user.value cs.user.linux.uid cs.user.linux.gid cs.user.linux.supplemental_groups",
            |sc| sc.run_as_user = number(1000),
            (1000, 1000, &[1000, 2000, 50000]),
        ),
        ask(
            "users: a uid that the image does not know has group 0",
            USER,
            "sc.run_as_user.value",
            |sc| sc.run_as_user = number(5555),
            (5555, 0, &[0]),
        ),
        ask(
            "users: the largest uid",
            "contract B.4: uid up to 2^32-1 is valid",
            "sc.run_as_user.value sc.run_as_group.value cs.user.linux.uid cs.user.linux.gid",
            |sc| (sc.run_as_user, sc.run_as_group) = (number(4_294_967_294), number(4_294_967_294)),
            (4_294_967_294, 4_294_967_294, &[4_294_967_294]),
        ),
        ask(
            "users: a name of the image",
            NAME,
            "sc.run_as_username",
            |sc| sc.run_as_username = "bob".to_owned(),
            (1001, 2000, &[2000]),
        ),
        ask(
            "users: a uid with a group",
            GROUP,
            "sc.run_as_user.value sc.run_as_group.value cs.user.linux.gid",
            |sc| (sc.run_as_user, sc.run_as_group) = (number(1234), number(4321)),
            (1234, 4321, &[4321]),
        ),
        ask(
            "users: a name with a group keeps the name's groups",
            GROUP,
            "sc.run_as_username sc.run_as_group.value",
            |sc| (sc.run_as_username, sc.run_as_group) = ("alice".to_owned(), number(4321)),
            (1000, 4321, &[2000, 4321, 50000]),
        ),
        ask(
            "users: supplemental groups are added",
            "CRI supplemental_groups; critest SupplementalGroups",
            "sc.supplemental_groups cs.user.linux.supplemental_groups",
            |sc| sc.supplemental_groups = vec![1234, 5678],
            (0, 0, &[0, 1234, 5678, 50000]),
        ),
        ask(
            "users: policy Merge adds the image's groups",
            POLICY,
            "sc.supplemental_groups",
            |sc| {
                sc.run_as_user = number(1000);
                sc.supplemental_groups = vec![7000];
                sc.supplemental_groups_policy = SupplementalGroupsPolicy::Merge.into();
            },
            (1000, 1000, &[1000, 2000, 7000, 50000]),
        ),
        ask(
            "users: policy Strict leaves the image's groups out",
            POLICY,
            "sc.supplemental_groups_policy cs.user.linux.supplemental_groups",
            |sc| {
                sc.run_as_user = number(1000);
                sc.supplemental_groups = vec![7000];
                sc.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
            },
            (1000, 1000, &[1000, 7000]),
        ),
        ask(
            "users: policy Strict with a group of the request",
            POLICY,
            "sc.supplemental_groups_policy sc.run_as_group.value",
            |sc| {
                sc.run_as_user = number(1000);
                sc.run_as_group = number(8000);
                sc.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
            },
            (1000, 8000, &[8000]),
        ),
        no("users: a group without a user is refused", GROUP, "sc.run_as_group.value", |sc| {
            sc.run_as_group = number(1000);
        }),
        no("users: a name that the image does not know is refused", NAME, "sc.run_as_username", |sc| {
            sc.run_as_username = "nobody-knows".to_owned();
        }),
        no("users: a negative uid is refused", USER, "sc.run_as_user.value", |sc| {
            sc.run_as_user = number(-1)
        }),
        no("users: a uid beyond 32 bits is refused", USER, "sc.run_as_user.value", |sc| {
            sc.run_as_user = number(1 << 32);
        }),
        no("users: a negative group is refused", GROUP, "sc.run_as_group.value", |sc| {
            (sc.run_as_user, sc.run_as_group) = (number(1), number(-1));
        }),
        no(
            "users: a negative supplemental group is refused",
            "CRI supplemental_groups",
            "sc.supplemental_groups",
            |sc| {
                sc.supplemental_groups = vec![-5];
            },
        ),
        no("users: an unknown policy of groups is refused", POLICY, "sc.supplemental_groups_policy", |sc| {
            sc.supplemental_groups_policy = 77;
        }),
        no(
            "users: a name cannot add a line to passwd",
            "safety: injection through names",
            "sc.run_as_username",
            |sc| sc.run_as_username = "root:x:0:0\nalice".to_owned(),
        ),
        case(
            "users: files of the image have their owners",
            "OCI image layer: owner",
            "",
            |t: Test| async move {
                let c = t.container(|c| c.sc().run_as_user = number(1000)).await?;
                is("hers", c.sh("cat /home/alices").await?, "hers")?;
                let other = t.container(|c| c.sc().run_as_user = number(1001)).await?;
                has("his", &other.sh_fails("cat /home/alices").await?, "denied")
            },
        ),
        case(
            "users: HOME is the user's",
            "OCI runtime practice: HOME from passwd",
            "",
            |t: Test| async move {
                let c = t.container(|c| c.sc().run_as_user = number(1000)).await?;
                is("HOME", c.sh("echo $HOME").await?, "/tmp")
            },
        ),
    ]
}

/// A case in which the container is this user, from all three sides.
fn ask(
    name: &'static str,
    source: &'static str,
    fields: &'static str,
    change: fn(&mut LinuxContainerSecurityContext),
    expected: (u32, u32, &'static [u32]),
) -> Case {
    case(name, source, fields, move |t: Test| async move {
        let c = t.container(|c| change(c.sc())).await?;
        is("who it is", who(&c).await?, (expected.0, expected.1, expected.2.to_vec()))
    })
}

/// A case in which the container is refused.
fn no(
    name: &'static str,
    source: &'static str,
    fields: &'static str,
    change: fn(&mut LinuxContainerSecurityContext),
) -> Case {
    case(name, source, fields, move |t: Test| async move {
        let pod = t.pod().await?;
        refused("the container", pod.try_run(|c| change(c.sc())).await, &[])?;
        is("another container in the pod", pod.run(|_| {}).await?.sh("echo works").await?, "works")
    })
}

async fn of_image_tried(
    t: &Test,
    image: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Result<Result<Container, tonic::Status>> {
    // The image is every such case's, and stays.
    let request = cri::PullImageRequest { image: Some(t.spec(image)), ..Default::default() };
    let id = t.images().pull_image(request).await?.into_inner().image_ref;
    let pod = t.pod().await?;
    Ok(pod
        .try_run(|c| {
            c.image.get_or_insert_default().image = id;
            c.script("sleep 100000; :");
            change(c.sc());
        })
        .await)
}

async fn of_image(
    t: &Test,
    image: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Result<Container> {
    Ok(of_image_tried(t, image, change).await??)
}

/// Who the first process is, and that an exec and the status say the same.
async fn who(c: &Container) -> Result<Who> {
    let pid = c.pid().await?;
    let numbers =
        |text: String| -> Vec<u32> { text.split_whitespace().filter_map(|n| n.parse().ok()).collect() };
    let uids = numbers(host::status_line(pid, "Uid")?);
    let gids = numbers(host::status_line(pid, "Gid")?);
    is("all four uids", &uids[1..], &[uids[0]; 3][..])?;
    is("all four gids", &gids[1..], &[gids[0]; 3][..])?;
    let sorted = |mut groups: Vec<u32>| {
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    let groups = sorted([numbers(host::status_line(pid, "Groups")?), vec![gids[0]]].concat());
    is("an exec's uid", c.sh("id -u").await?, uids[0].to_string())?;
    is("an exec's gid", c.sh("id -g").await?, gids[0].to_string())?;
    is("an exec's groups", sorted(numbers(c.sh("id -G").await?)), groups.clone())?;
    let told = c.status().await?.user.and_then(|user| user.linux).context("no user in the status")?;
    is("uid in the status", told.uid, i64::from(uids[0]))?;
    is("gid in the status", told.gid, i64::from(gids[0]))?;
    let said: Vec<u32> = told.supplemental_groups.iter().filter_map(|g| u32::try_from(*g).ok()).collect();
    is("groups in the status", sorted([said, vec![gids[0]]].concat()), groups.clone())?;
    Ok((uids[0], gids[0], groups))
}
