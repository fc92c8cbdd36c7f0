//! The program itself: how a start that fails is answered, in words and as an exit code.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn manager(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deputy-manager"))
        .arg("--data")
        .arg(data)
        .args(arguments)
        .output()
        .expect("run")
}

fn refused(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("error: "), "{said}");
    (output.status.code(), said)
}

#[test]
fn bad_arguments_end_with_2_and_a_hint() {
    let data = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["--lease-ttl", "1s", "--heartbeat", "10s"][..],
        &["--listen", "0.0.0.0:0", "--insecure-loopback"],
    ] {
        let (code, said) = refused(&manager(data.path(), arguments));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("\nhint: "), "{said}");
    }
    let (code, said) = refused(&manager(data.path(), &["--no-such-flag"]));
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn a_manager_that_cannot_start_ends_with_10_and_a_hint() {
    let data = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, said) = refused(&manager(data.path(), &["--listen", &address]));
    assert_eq!(code, Some(10), "{said}");
    assert!(
        said.contains(&address) && said.contains("hint: ") && said.contains("--listen"),
        "{said}"
    );

    let file = data.path().join("file");
    std::fs::write(&file, "no folder").expect("written");
    let (code, said) = refused(&manager(&file, &["--listen", "127.0.0.1:0"]));
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("hint: ") && said.contains("--data"), "{said}");
}

#[test]
fn a_data_folder_of_somebody_else_is_not_used() {
    // Of root, and root's tests see theirs made somebody else's.
    let given = tempfile::tempdir().expect("a folder");
    let foreign = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(given.path(), Some(65_534), None).expect("given away");
        given.path()
    } else {
        Path::new("/usr")
    };
    let (code, said) = refused(&manager(foreign, &["--listen", "127.0.0.1:0"]));
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("belongs to user") && said.contains("--data"), "{said}");
}

#[test]
fn the_help_lists_the_exit_codes() {
    let data = tempfile::tempdir().expect("a folder");
    let help = manager(data.path(), &["--help"]);
    let said = String::from_utf8_lossy(&help.stdout);
    assert_eq!(help.status.code(), Some(0));
    assert!(said.contains("Exit codes: 0 "), "{said}");
}
