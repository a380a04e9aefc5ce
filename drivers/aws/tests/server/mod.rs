//! What the tests share: where the server is, and a proxy in front of it that holds, cuts and rewrites.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_aws::{Aws, Sqs, SqsBuilder, SqsReader};
use millstream_core::{
    Delivery, Message, OpenRequest, Opened, Read, ReadLimits, Reader, Settled, Settlement, Settler as _,
    Source as _,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where the server is that speaks SQS. Never skipped in silence: who has none is told how to get one.
pub(crate) fn endpoint() -> String {
    std::env::var("MILLSTREAM_SQS").expect(
        "set MILLSTREAM_SQS to a server that speaks SQS: `cargo xtask services start elasticmq` starts one and prints it",
    )
}

pub(crate) async fn aws(endpoint: &str) -> Aws {
    let aws = Aws::builder().region("eu-west-1").endpoint(endpoint).credentials("test", "test");
    aws.connect().await.unwrap()
}

/// Queues with polls of a second.
pub(crate) async fn queues(endpoint: &str) -> SqsBuilder {
    aws(endpoint).await.sqs().wait(Duration::from_secs(1))
}

pub(crate) async fn sqs() -> Sqs {
    queues(&endpoint()).await.open().unwrap()
}

/// A topic that was never used.
pub(crate) fn topic(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test.{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) async fn write(sqs: &Sqs, messages: Vec<Message>) {
    use millstream_core::Writer as _;
    sqs.writer().write(messages).await.unwrap().into_result().unwrap();
}

type Parts =
    Opened<<SqsReader as Reader>::Source, <SqsReader as Reader>::Settler, <SqsReader as Reader>::Leases>;

/// A member of a group.
pub(crate) struct Member {
    pub(crate) parts: Parts,
}

impl Member {
    pub(crate) async fn open(sqs: &Sqs, topic: &str) -> Self {
        let parts = sqs.reader().open(OpenRequest::new(topic.to_owned()).group("g")).await.unwrap();
        Self { parts }
    }

    /// What comes within so long, at most so many.
    pub(crate) async fn take_within(&mut self, count: usize, patience: Duration) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let reading = async {
            while taken.len() < count {
                let limits = ReadLimits::new(count - taken.len(), 64 << 20);
                let read = self.parts.source.read(&mut taken, limits).await.unwrap();
                assert!(matches!(read, Read::Deliveries));
            }
        };
        let _ = timeout(patience, reading).await;
        taken
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let taken = self.take_within(count, PATIENCE).await;
        assert_eq!(taken.len(), count, "what came within {PATIENCE:?}");
        taken
    }

    pub(crate) async fn quiet(&mut self, time: Duration) {
        let came = self.take_within(1, time).await;
        assert!(came.is_empty(), "nothing was to come, and {:?} did", came[0].message);
    }

    pub(crate) async fn ack(&mut self, deliveries: Vec<Delivery>) -> Vec<Settled> {
        let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
        self.parts.settler.settle(batch).await
    }
}

/// How the proxy treats what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It passes.
    Pass,
    /// Nothing passes, and connections stay: a network that forgot them.
    Hold,
    /// Requests pass, and in place of the answer the connection ends.
    CutAnswers,
    /// Every connection ends.
    Cut,
}

/// Changes an answer: its status and its body.
type Rewrite = Arc<dyn Fn(&mut String, &mut String) + Send + Sync>;

/// A proxy in front of the server.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    mode: watch::Sender<Mode>,
    rewrite: Arc<Mutex<Option<Rewrite>>>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let server = endpoint().trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (mode, modes) = watch::channel(Mode::Pass);
        let rewrite: Arc<Mutex<Option<Rewrite>>> = Arc::default();
        let rewrites = Arc::clone(&rewrite);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Cut {
                    continue;
                }
                let (server, modes, rewrites) = (server.clone(), modes.clone(), Arc::clone(&rewrites));
                tokio::spawn(async move {
                    let mut ending = modes.clone();
                    tokio::select! {
                        _ = pass(client, &server, modes, rewrites) => {}
                        _ = ending.wait_for(|mode| *mode == Mode::Cut) => {}
                    }
                });
            }
        });
        Self { endpoint, mode, rewrite }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Changes answers from now on.
    pub(crate) fn rewrite(&self, rewrite: impl Fn(&mut String, &mut String) + Send + Sync + 'static) {
        *self.rewrite.lock().unwrap() = Some(Arc::new(rewrite));
    }

    pub(crate) fn leave_as_it_is(&self) {
        *self.rewrite.lock().unwrap() = None;
    }
}

async fn pass(
    mut client: TcpStream,
    server: &str,
    mut modes: watch::Receiver<Mode>,
    rewrites: Arc<Mutex<Option<Rewrite>>>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    loop {
        let Some((head, body)) = message(&mut client).await? else { return Ok(()) };
        let _ = modes.wait_for(|mode| *mode != Mode::Hold).await;
        server.write_all(head.as_bytes()).await?;
        server.write_all(body.as_bytes()).await?;
        // A client that hangs up while it waits for an answer hangs up on the server as well.
        let mut end = [0; 1];
        let answer = tokio::select! {
            answer = message(&mut server) => answer?,
            _ = client.peek(&mut end) => return Ok(()),
        };
        let Some((mut head, mut body)) = answer else { return Ok(()) };
        let held = modes.wait_for(|mode| *mode != Mode::Hold).await.map(|mode| *mode);
        if held.is_ok_and(|mode| mode == Mode::CutAnswers) {
            return Ok(());
        }
        let rewrite = rewrites.lock().unwrap().clone();
        if let Some(rewrite) = rewrite {
            rewrite(&mut head, &mut body);
            let lines = head.trim_end().lines();
            let kept: Vec<_> =
                lines.filter(|l| !l.to_ascii_lowercase().starts_with("content-length:")).collect();
            head = format!("{}\r\nContent-Length: {}\r\n\r\n", kept.join("\r\n"), body.len());
        }
        client.write_all(head.as_bytes()).await?;
        client.write_all(body.as_bytes()).await?;
    }
}

/// One message of HTTP: its head with the empty line, and its body.
async fn message(stream: &mut TcpStream) -> std::io::Result<Option<(String, String)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, String::from_utf8_lossy(&body).into_owned())))
}
