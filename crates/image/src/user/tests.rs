//! Users of requests and images against the files of an image.

use super::*;
use crate::scratch::Scratch;
use std::{fs::File, io::Write as _};
use types::{Digest, container::ImageDefaults};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:100:App:/home/app:/bin/sh\n\
    1234:x:0:0:a number as a name:/:/bin/sh\n\
    4294967296:x:0:0::/:/bin/sh\n\
    +0:x:0:0::/:/bin/sh\n\
    1e3:x:0:0::/:/bin/sh\n\
    broken line\n\
    huge:x:4294967295:0::/:\n";
const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\nextra:x:50000:app\nother:x:7:nobody\n";

struct Image {
    _scratch: Scratch,
    resolved: Resolved,
}

fn image(name: &str, user: &str) -> Image {
    let scratch = Scratch::new(name);
    let etc = scratch.path().join("etc");
    std::fs::create_dir(&etc).expect("mkdir");
    for (file, text) in [("passwd", PASSWD), ("group", GROUP)] {
        File::create(etc.join(file)).and_then(|mut f| f.write_all(text.as_bytes())).expect("write");
    }
    let resolved = Resolved {
        id: Digest::of_sha256(&[0; 32]),
        image_ref: String::new(),
        tag: None,
        defaults: ImageDefaults { user: user.to_owned(), ..ImageDefaults::default() },
        layers: vec![scratch.path().to_owned()],
        layer_ids: Vec::new(),
    };
    Image { _scratch: scratch, resolved }
}

fn check(user: &str, request: &UserRequest<'_>) -> Result<(u32, u32, Vec<u32>), UserError> {
    let image = image("user", user);
    let found = image.resolved.resolve_user(request)?;
    Ok((found.uid, found.gid, found.groups))
}

#[test]
fn each_form_of_user_is_resolved() {
    let none = UserRequest::default();
    for (user, wanted) in [
        ("", (0, 0, vec![0, 10])),
        ("app", (1000, 100, vec![10, 100, 50000])),
        ("1000", (1000, 100, vec![10, 100, 50000])),
        ("1000:7", (1000, 7, vec![7, 10, 50000])),
        ("app:wheel", (1000, 10, vec![10, 50000])),
        ("77", (77, 0, vec![0])),
        ("77:100", (77, 100, vec![100])),
        ("2147483647", (2_147_483_647, 0, vec![0])),
        // A number is never a name, even if /etc/passwd has it as one.
        ("1234", (1234, 0, vec![0])),
    ] {
        assert_eq!(check(user, &none).expect(user), wanted, "{user}");
    }
}

#[test]
fn the_request_wins_over_the_image() {
    let (uid, name) = (RunAs::Uid(4_294_967_294), RunAs::Name("app".to_owned()));
    let by_uid = UserRequest { run_as: Some(&uid), group: Some(5), ..UserRequest::default() };
    assert_eq!(check("app", &by_uid).expect("uid"), (4_294_967_294, 5, vec![5]));
    let strict = UserRequest {
        run_as: Some(&name),
        supplemental: &[9, 3, 9],
        policy: GroupsPolicy::Strict,
        ..UserRequest::default()
    };
    assert_eq!(check("root", &strict).expect("name"), (1000, 100, vec![3, 9, 100]));
    let merge = UserRequest { policy: GroupsPolicy::Merge, ..strict };
    assert_eq!(check("root", &merge).expect("name"), (1000, 100, vec![3, 9, 10, 100, 50000]));
    let image = image("home", "app");
    let found = image.resolved.resolve_user(&UserRequest::default()).expect("home");
    assert_eq!(found.home.as_deref(), Some("/home/app"));
}

#[test]
fn what_only_looks_like_a_number_is_an_error_and_never_root() {
    for bad in [
        "4294967296",
        "2147483648",
        "-1",
        "+0",
        "0x0",
        "00",
        "1e3",
        "18446744073709551616:0",
        " 0",
        "0 ",
        "0:-1",
        ":",
        ":0",
        "0:",
        "a:b:c",
        "١",
        "a b",
        "a\nb",
        "app:00",
    ] {
        let refused = check(bad, &UserRequest::default());
        let is_name = bad == "١";
        assert!(
            matches!(refused, Err(UserError::Malformed(_)))
                || is_name && matches!(refused, Err(UserError::UnknownUser(_))),
            "{bad:?}: {refused:?}"
        );
        assert!(!matches!(image_user(bad), ImageUser::Unsaid), "{bad:?} must not pass for nothing");
    }
    assert!(matches!(check("nobody", &UserRequest::default()), Err(UserError::UnknownUser(_))));
    assert!(matches!(check("huge", &UserRequest::default()), Err(UserError::UnknownUser(_))));
    assert!(matches!(check("app:nogroup", &UserRequest::default()), Err(UserError::UnknownGroup(_))));
}

#[test]
fn the_image_shows_a_uid_or_a_name() {
    assert_eq!(image_user(""), ImageUser::Unsaid);
    assert_eq!(image_user("1002"), ImageUser::Uid(1002));
    assert_eq!(image_user("1003:22"), ImageUser::Uid(1003));
    assert_eq!(image_user("www-data:100"), ImageUser::Name("www-data".to_owned()));
    assert_eq!(image_user("4294967296"), ImageUser::Name("4294967296".to_owned()));
}

#[test]
fn user_files_that_are_no_files_or_too_large_are_errors() {
    let image = image("large", "app");
    let passwd = image.resolved.layers[0].join("etc/passwd");
    File::options().write(true).open(&passwd).and_then(|f| f.set_len(4 << 30)).expect("sparse");
    let refused = image.resolved.resolve_user(&UserRequest::default());
    assert!(matches!(refused, Err(UserError::Read { .. })), "{refused:?}");
    std::fs::remove_file(&passwd).expect("remove");
    std::os::unix::fs::symlink("/dev/zero", &passwd).expect("link");
    // There is no /dev/zero inside the image.
    assert!(matches!(image.resolved.resolve_user(&UserRequest::default()), Err(UserError::UnknownUser(_))));
    std::fs::remove_file(&passwd).expect("remove");
    std::fs::create_dir(&passwd).expect("mkdir");
    assert!(matches!(image.resolved.resolve_user(&UserRequest::default()), Err(UserError::Stack(_))));
}
