//! The wire between agent and manager can be cut and stalled, one way or both.

use std::time::Duration;

use deputy_tests::link::{Link, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_wire_carries_stalls_and_cuts() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let link = Link::to(server.local_addr().expect("address")).await.expect("a link");
    let mut near = TcpStream::connect(link.address()).await.expect("connected");
    let (mut far, _) = server.accept().await.expect("accepted");
    let mut byte = [0];
    near.write_all(b"a").await.expect("sent");
    far.read_exact(&mut byte).await.expect("carried");

    link.set(Wire::StalledUp);
    near.write_all(b"b").await.expect("sent into the stall");
    far.write_all(b"c").await.expect("sent");
    near.read_exact(&mut byte).await.expect("the other way is open");
    tokio::time::timeout(SOON, far.read_exact(&mut byte))
        .await
        .expect_err("stalled");
    link.resume();
    far.read_exact(&mut byte).await.expect("nothing is lost by a stall");
    assert_eq!(&byte, b"b");

    link.cut();
    assert!(!matches!(near.read(&mut byte).await, Ok(1..)), "the connection is gone");
    let mut refused = TcpStream::connect(link.address()).await.expect("the port stays");
    assert!(!matches!(refused.read(&mut byte).await, Ok(1..)), "and carries nothing");
}
