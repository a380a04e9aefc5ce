//! The network between a worker and its servers: each connection goes through this program, which can cut it, slow it down,
//! or let one end die without the other hearing of it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::Result;

/// Bytes that are carried at a time.
const CARRIED: usize = 64 << 10;

/// A port that leads to a broker's.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    network: Arc<Network>,
}

#[derive(Debug, Default)]
struct Network {
    /// What is sent arrives nowhere, and nobody is told.
    swallows: AtomicBool,
    /// How long everything takes on its way, in ms.
    delay: Arc<AtomicU64>,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection, from a client to a broker.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    broker: TcpStream,
    /// The broker's end is dead, and the client's was not told.
    half_open: AtomicBool,
    over: AtomicBool,
    delay: Arc<AtomicU64>,
}

impl Network {
    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Listens on a free port, and leads to this one.
    pub(crate) fn listen(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let network = Arc::new(Network::default());
        let own = Arc::clone(&network);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is not there is told by the connection's end, as by a closed port.
                let _ = own.open(client, to);
            }
        });
        Ok(Self { port, network })
    }

    /// Ends all connections, for both ends to see.
    pub(crate) fn cut(&self) {
        self.network.links().drain(..).for_each(|link| link.close());
    }

    /// From now on, nothing arrives at the broker, whose ends of the connections are closed; clients are told nothing,
    /// and new connections are accepted by nobody who would answer.
    pub(crate) fn swallow(&self) {
        self.network.swallows.store(true, Ordering::Release);
        for link in self.network.links().drain(..) {
            link.half_open.store(true, Ordering::Release);
            let _ = link.broker.shutdown(Shutdown::Both);
        }
    }

    /// Whatever is sent takes so long on its way from now on.
    pub(crate) fn slow_down(&self, by: Duration) {
        self.network.delay.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Connections are quick, and new ones work again. Those that are half open stay so: the client has to find out by
    /// itself.
    pub(crate) fn heal(&self) {
        self.network.swallows.store(false, Ordering::Release);
        self.network.delay.store(0, Ordering::Release);
    }
}

impl Network {
    fn open(self: &Arc<Self>, mut client: TcpStream, to: u16) -> Result {
        if self.swallows.load(Ordering::Acquire) {
            thread::spawn(move || discard(&mut client));
            return Ok(());
        }
        let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
        // Small requests wait for each other otherwise.
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (half_open, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let delay = Arc::clone(&self.delay);
        let link = Arc::new(Link { client, broker, half_open, over, delay });
        let mut links = self.links();
        links.retain(|link| !link.over.load(Ordering::Acquire));
        links.push(Arc::clone(&link));
        drop(links);
        let back = Arc::clone(&link);
        thread::spawn(move || back.carry(&back.broker, &back.client));
        thread::spawn(move || {
            link.carry(&link.client, &link.broker);
            if link.half_open.load(Ordering::Acquire) {
                discard(&mut &link.client);
                link.close();
            }
        });
        Ok(())
    }
}

impl Link {
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = vec![0; CARRIED];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            thread::sleep(Duration::from_millis(self.delay.load(Ordering::Acquire)));
            if self.half_open.load(Ordering::Acquire) || to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        if !self.half_open.load(Ordering::Acquire) {
            self.close();
        }
    }

    fn close(&self) {
        self.over.store(true, Ordering::Release);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.broker.shutdown(Shutdown::Both);
    }
}

/// Reads to the end, for nothing.
fn discard(from: &mut impl std::io::Read) {
    let mut bytes = vec![0; CARRIED];
    while let Ok(1..) = from.read(&mut bytes) {}
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that sends back what it gets, behind a proxy, and a client that is connected to it.
    fn connected() -> (Proxy, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = server.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in server.incoming().flatten() {
                thread::spawn(move || {
                    let mut bytes = [0; 16];
                    while let Ok(count @ 1..) = stream.read(&mut bytes) {
                        stream.write_all(&bytes[..count]).unwrap();
                    }
                });
            }
        });
        let proxy = Proxy::listen(to).unwrap();
        let client = connect(&proxy);
        (proxy, client)
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client
    }

    /// What comes back: none if nothing does in time.
    fn echo(client: &mut TcpStream) -> Option<usize> {
        client.write_all(b"hello").ok()?;
        client.read(&mut [0; 16]).ok()
    }

    #[test]
    fn what_is_sent_arrives_and_comes_back() {
        let (_proxy, mut client) = connected();
        assert_eq!(echo(&mut client), Some(5));
    }

    #[test]
    fn a_cut_is_seen_by_the_client_and_a_new_connection_works() {
        let (proxy, mut client) = connected();
        assert_eq!(echo(&mut client), Some(5));
        proxy.cut();
        assert!(matches!(client.read(&mut [0; 16]), Ok(0) | Err(_)));
        assert_eq!(echo(&mut connect(&proxy)), Some(5));
    }

    #[test]
    fn a_slow_connection_takes_its_time_until_it_is_healed() {
        let (proxy, mut client) = connected();
        proxy.slow_down(Duration::from_millis(40));
        let begun = Instant::now();
        assert_eq!(echo(&mut client), Some(5));
        assert!(begun.elapsed() >= Duration::from_millis(80), "there and back");
        proxy.heal();
        assert_eq!(echo(&mut client), Some(5));
    }

    #[test]
    fn a_half_open_connection_takes_what_is_sent_and_stays_silent_also_once_others_work() {
        let (proxy, mut client) = connected();
        assert_eq!(echo(&mut client), Some(5));
        proxy.swallow();
        assert_eq!(echo(&mut client), None);
        assert_eq!(echo(&mut connect(&proxy)), None);
        proxy.heal();
        assert_eq!(echo(&mut client), None);
        assert_eq!(echo(&mut connect(&proxy)), Some(5));
    }
}
