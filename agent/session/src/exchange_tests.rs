//! Long polls over a real socket, with a manager that loses what the seed says.
#![expect(clippy::disallowed_methods, reason = "each test joins or drops what it spawns")]

use deputy_proto::v1::session_request::Frame as Sent;
use deputy_proto::v1::session_response::Frame as Answer;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::SessionConfig;
use crate::scripted_manager::{ScriptedManager, ServedExchange, patiently};
use crate::way::{Carrier, Transport};

const HEARTBEATS: u64 = 60;

fn heartbeat(seq: u64) -> v1::SessionRequest {
    v1::SessionRequest {
        frame: Some(Sent::Heartbeat(v1::Heartbeat {
            seq,
            ..v1::Heartbeat::default()
        })),
    }
}

async fn client(config: &SessionConfig) -> Grpc<ManagerChannel> {
    let route = config.membership.route(Carrier::Exchange);
    let (channel, _) = route.open(config.connect_timeout).await.expect("a channel");
    Grpc::with_origin(channel, route.origin())
}

/// What a manager does with requests, and what the network does to them.
struct Model {
    rng: SmallRng,
    taken: Vec<u64>,
    kept: VecDeque<v1::SessionResponse>,
    first: u64,
}

impl Model {
    fn take(&mut self, request: &v1::ExchangeRequest) {
        while self.first < request.received {
            self.kept.pop_front().expect("it was sent");
            self.first += 1;
        }
        let known = self.taken.len() as u64;
        assert!(request.first <= known, "a frame is missing");
        for frame in request
            .frames
            .iter()
            .skip(usize::try_from(known - request.first).expect("few"))
        {
            let Some(Sent::Heartbeat(heartbeat)) = &frame.frame else {
                panic!("{frame:?}");
            };
            self.taken.push(heartbeat.seq);
            self.kept.push_back(v1::SessionResponse {
                frame: Some(Answer::HeartbeatAck(v1::HeartbeatAck { seq: heartbeat.seq })),
            });
        }
    }

    /// True at the end.
    fn serve(&mut self, served: ServedExchange) -> bool {
        let ServedExchange { request, answer } = served;
        let is_open = !self.taken.is_empty();
        if is_open && self.rng.random_bool(0.25) {
            return false; // the request is lost
        }
        self.take(&request);
        if self.rng.random_bool(0.2) {
            self.take(&request); // it comes twice
        }
        if is_open && self.rng.random_bool(0.25) {
            return false; // the answer is lost
        }
        let response = v1::ExchangeResponse {
            frames: self.kept.iter().cloned().collect(),
            first: self.first,
            received: self.taken.len() as u64,
            last: request.last,
        };
        answer.send(response).is_ok() && request.last
    }
}

#[tokio::test]
async fn whatever_is_lost_or_doubled_each_frame_arrives_once_and_in_order() {
    for seed in 0..6 {
        let mut manager = ScriptedManager::start().await;
        let config = ScriptedManager::config_by(manager.address, Transport::Exchange);
        let client = client(&config).await;
        let (frames, outbound) = mpsc::channel(8);
        let mut exchange = Exchange::new(client, outbound);
        let served = tokio::spawn(async move {
            let mut model = Model {
                rng: SmallRng::seed_from_u64(seed),
                taken: Vec::new(),
                kept: VecDeque::new(),
                first: 0,
            };
            while !model.serve(manager.exchange().await) {}
            model.taken
        });
        let sending = tokio::spawn(async move {
            for seq in 0..HEARTBEATS {
                frames.send(heartbeat(seq)).await.expect("taken");
                if seq % 20 == 19 {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        });
        let mut acknowledged = Vec::new();
        while let Some(answer) = tokio::time::timeout(Duration::from_secs(60), exchange.message())
            .await
            .expect("in time")
            .expect("no final error")
        {
            let Some(Answer::HeartbeatAck(ack)) = answer.frame else {
                panic!("{answer:?}");
            };
            acknowledged.push(ack.seq);
        }
        sending.await.expect("sent");
        let all: Vec<u64> = (0..HEARTBEATS).collect();
        assert_eq!(served.await.expect("served"), all, "seed {seed}");
        assert_eq!(acknowledged, all, "seed {seed}");
    }
}

#[tokio::test]
async fn polls_that_are_cut_while_they_wait_become_shorter_down_to_a_bound() {
    let mut manager = ScriptedManager::start().await;
    let config = ScriptedManager::config_by(manager.address, Transport::Exchange);
    let client = client(&config).await;
    let (frames, outbound) = mpsc::channel(8);
    let mut exchange = Exchange::new(client, outbound);
    frames.send(heartbeat(0)).await.expect("taken");
    let reading = tokio::spawn(async move { exchange.message().await });
    let opening = manager.exchange().await;
    assert_eq!(opening.request.wait_ms, 25_000, "the first post waits for its answer");
    let taken = v1::ExchangeResponse {
        received: 1,
        ..v1::ExchangeResponse::default()
    };
    opening.answer.send(taken).expect("answered");
    let mut waits = Vec::new();
    for _ in 0..5 {
        let poll = manager.exchange().await;
        waits.push(poll.request.wait_ms);
        tokio::time::sleep(WAITED + Duration::from_millis(100)).await;
    }
    assert_eq!(waits, [25_000, 12_500, 6_250, 3_125, 2_000]);
    reading.abort();
}

#[tokio::test]
async fn an_opening_that_fails_is_left_to_the_next_dial() {
    let mut manager = ScriptedManager::start().await;
    let config = ScriptedManager::config_by(manager.address, Transport::Exchange);
    let (frames, outbound) = mpsc::channel(8);
    let mut exchange = Exchange::new(client(&config).await, outbound);
    frames.send(heartbeat(0)).await.expect("taken");
    let reading = tokio::spawn(async move { exchange.message().await });
    drop(manager.exchange().await);
    let status = patiently(reading).await.expect("no panic").expect_err("not open");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

/// Numbers that cannot be: a manager that takes what was not sent, or leaves something out.
#[tokio::test]
async fn an_answer_with_impossible_numbers_ends_the_session() {
    let beyond = v1::ExchangeResponse {
        received: 7,
        ..v1::ExchangeResponse::default()
    };
    let gap = v1::ExchangeResponse {
        received: 1,
        first: 3,
        ..v1::ExchangeResponse::default()
    };
    let far = v1::ExchangeResponse {
        received: u64::MAX,
        first: u64::MAX,
        last: true,
        ..v1::ExchangeResponse::default()
    };
    for (answer, words) in [(beyond, "than were sent"), (gap, "is missing"), (far, "than were sent")] {
        let mut manager = ScriptedManager::start().await;
        let config = ScriptedManager::config_by(manager.address, Transport::Exchange);
        let client = client(&config).await;
        let (frames, outbound) = mpsc::channel(8);
        let mut exchange = Exchange::new(client, outbound);
        frames.send(heartbeat(0)).await.expect("taken");
        let reading = tokio::spawn(async move { exchange.message().await });
        manager.exchange().await.answer.send(answer).expect("answered");
        let error = patiently(reading).await.expect("no panic").expect_err("refused");
        assert!(error.message().contains(words), "{error}");
    }
}

/// A proxy that answers the preface of HTTP/2 with a page, and passes everything else on.
async fn no_http2(manager: std::net::SocketAddr) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let proxy = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.expect("accepted");
            connections.spawn(async move {
                let mut first = vec![0; 3];
                near.read_exact(&mut first).await.ok()?;
                if first == b"PRI" {
                    let page = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>no</html>";
                    near.write_all(page).await.ok()?;
                    // What was sent is read, or the page would be lost in a reset.
                    while matches!(near.read(&mut vec![0; 4096]).await, Ok(1..)) {}
                    return None;
                }
                let mut far = tokio::net::TcpStream::connect(manager).await.ok()?;
                far.write_all(&first).await.ok()?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok()
            });
        }
    });
    (address, proxy)
}

#[tokio::test]
async fn a_page_instead_of_http2_is_known_for_what_it_is() {
    let manager = ScriptedManager::start().await;
    let (address, proxy) = no_http2(manager.address).await;
    let config = ScriptedManager::config_by(address, Transport::Auto);
    let dialled = patiently(crate::dial::dial(&config, v1::Hello::default())).await;
    let error = dialled.err().expect("no HTTP/2");
    assert!(error.to_string().contains("\"HTTP/1.1 400 Bad Request\""), "{error}");
    let finding = error.finding();
    assert!(matches!(finding, crate::way::Finding::Certain(_)), "{finding:?}");
    proxy.abort();
}

#[tokio::test]
async fn silence_and_a_closed_connection_are_only_suspicious() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let mut config = ScriptedManager::config_by(address, Transport::Auto);
    config.connect_timeout = Duration::from_millis(300);
    let silent = patiently(crate::dial::dial(&config, v1::Hello::default())).await;
    let finding = silent.err().expect("no welcome").finding();
    assert!(matches!(finding, crate::way::Finding::Suspect(_)), "{finding:?}");
    let closing = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    let closed = patiently(crate::dial::dial(&config, v1::Hello::default())).await;
    let finding = closed.err().expect("closed").finding();
    assert!(matches!(finding, crate::way::Finding::Suspect(_)), "{finding:?}");
    closing.abort();
    let _ = closing.await;
    let refused = patiently(crate::dial::dial(&config, v1::Hello::default())).await;
    assert_eq!(refused.err().expect("refused").finding(), crate::way::Finding::Clear);
}
