//! A network of its own for a server that listens on every interface: it has a loopback and nothing else, so that nobody
//! outside this machine reaches the server.
//!
//! Beside the server runs a relay of ours. Its listening socket was opened outside, on the loopback of the machine, and
//! came along as its standard input: a socket stays in the network in which it was opened, whoever uses it. The relay
//! connects what comes there to the server's port inside.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::thread;

use clap::Args;

use super::process::program;
use crate::Result;
use crate::command::Run;

/// What runs inside.
#[derive(Args)]
pub(crate) struct Relay {
    /// The port of the server.
    port: u16,
    /// The server's command line.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    server: Vec<OsString>,
}

const UNSHARE: [&str; 2] = ["--net", "--map-root-user"];

/// Whether this machine allows it.
pub(super) fn is_allowed() -> bool {
    Run::new("unshare").args(UNSHARE).args(["ip", "link", "set", "lo", "up"]).succeeds()
}

/// The same server in a network of its own, reached on the same port of our loopback.
pub(super) fn confine(server: &Command, port: u16) -> Result<Command> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut command = program("unshare");
    command
        .args(UNSHARE)
        .arg(std::env::current_exe()?)
        .args(["relay", &port.to_string()])
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(OwnedFd::from(listener));
    Ok(command)
}

/// Runs the server and the relay, until the server ends.
pub(crate) fn relay(relay: &Relay) -> Result {
    let Relay { port, server } = relay;
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    Run::new("ip").args(["link", "set", "lo", "up"]).run()?;
    let (name, args) = server.split_first().ok_or("there is no server to run")?;
    let mut server = program(name).args(args).spawn()?;
    let port = *port;
    thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            thread::spawn(move || pass(outside, port));
        }
    });
    let status = server.wait()?;
    Err(format!("the server ended with {status}").into())
}

/// Passes on what both say, until both have ended.
fn pass(outside: TcpStream, port: u16) -> io::Result<()> {
    let inside = TcpStream::connect(("127.0.0.1", port))?;
    for stream in [&outside, &inside] {
        stream.set_nodelay(true)?;
    }
    let (from, to) = (outside.try_clone()?, inside.try_clone()?);
    let asks = thread::spawn(move || copy(from, to));
    copy(inside, outside)?;
    asks.join().unwrap_or(Ok(()))
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to).and_then(|_| to.flush());
    let _ = to.shutdown(Shutdown::Write);
    copied
}
