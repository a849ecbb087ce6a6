//! A client and the daemon over a real socket: requests that go out together.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::Timespec;
use xenstore::{Client, Request, Store as _, StoreError};
use xenstored::server::{Server, World};

/// A daemon in a thread, ended with the value.
struct Daemon {
    folder: PathBuf,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (journal, socket) = (folder.join("journal"), folder.join("socket"));
        let mut server = Server::start(&journal, "boot", &socket, World::none()).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let while_ = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            while !over.load(Ordering::Relaxed) {
                server.turn(Some(&while_)).unwrap();
            }
        });
        Self {
            folder,
            is_over,
            thread: Some(thread),
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.folder.join("socket")).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        drop(std::fs::remove_dir_all(&self.folder));
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

#[test]
fn requests_that_go_out_together_are_answered_in_order() {
    let daemon = Daemon::start("radon-store-order");
    let mut client = daemon.client();
    // More than goes out at once, with a refusal in the middle.
    let mut requests: Vec<Request> = (0..900)
        .map(|i| Request::write(&format!("/a/{i}"), format!("value {i}").as_bytes()))
        .collect();
    requests.insert(500, Request::rm("/no/such/folder/node"));
    let replies = client.requests(&requests).unwrap();
    assert_eq!(replies.len(), 901);
    for (at, reply) in replies.iter().enumerate() {
        match at {
            500 => {
                let error = reply.as_ref().unwrap_err();
                assert_eq!(error.store_error(), Some(StoreError::ENOENT));
            }
            _ => assert_eq!(reply.as_deref().unwrap(), b"OK\0"),
        }
    }
    let values = client.try_read_all(["/a/0", "/none", "/a/899"]).unwrap();
    assert_eq!(
        values,
        [
            Some("value 0".to_owned()),
            None,
            Some("value 899".to_owned())
        ]
    );
}

#[test]
fn transactions_take_them_too_and_large_answers_do_no_harm() {
    let daemon = Daemon::start("radon-store-large");
    let mut client = daemon.client();
    let large = [b'x'; 4000];
    let writes: Vec<Request> = (0..40)
        .map(|i| Request::write(&format!("/b/{i}"), &large))
        .collect();
    client
        .transaction(|transaction| {
            for reply in transaction.requests(&writes)? {
                reply?;
            }
            Ok(())
        })
        .unwrap();
    // Far more comes back than is sent, and than a socket holds.
    let reads: Vec<Request> = (0..600)
        .map(|i| Request::read(&format!("/b/{}", i % 40)))
        .collect();
    for reply in client.requests(&reads).unwrap() {
        assert_eq!(reply.unwrap(), large);
    }
}

#[test]
fn events_among_the_answers_are_kept() {
    let daemon = Daemon::start("radon-store-events");
    let mut client = daemon.client();
    client.watch("/c", "token").unwrap();
    let writes: Vec<Request> = (0..50)
        .map(|i| Request::write(&format!("/c/{i}"), b""))
        .collect();
    client.requests(&writes).unwrap();
    // The first is for the watch itself.
    let mut paths = Vec::new();
    while paths.len() < 51 {
        let event = client.next_event(Some(Duration::from_secs(10))).unwrap();
        paths.push(event.unwrap().path);
    }
    assert_eq!(paths[0], "/c");
    assert_eq!((&*paths[1], &*paths[50]), ("/c/0", "/c/49"));
    assert_eq!(client.next_event(Some(Duration::ZERO)).unwrap(), None);
}
