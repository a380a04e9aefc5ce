//! The certificates of a test broker and of those who speak to it, made anew for each start by the `openssl` program:
//! nothing that is secret lies in the repository, and nothing there expires.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::Run;
use crate::{Result, tools};

/// Opens `client-encrypted.key`.
pub(super) const KEY_PASSWORD: &str = "open-sesame-2929";

/// A broker is a matter of days.
const DAYS: &str = "30";
const PAST: &str = "-1";

/// Makes into a folder, all as PEM:
///
/// | file | holds |
/// |---|---|
/// | `ca.pem`, `stranger.pem` | the authority that the broker knows, and one that it does not |
/// | `broker.pem` | the broker's key and certificate, for 127.0.0.1 alone: `localhost` is a wrong name |
/// | `client.pem`, `client.key`, `client-encrypted.key` | a client's certificate and key |
/// | `expired.pem`, `expired.key` | one whose time is over |
/// | `stranger-client.pem`, `stranger-client.key` | one of the authority that the broker does not know |
pub(super) fn make(folder: &Path) -> Result {
    tools::system("openssl", || Run::new("openssl").arg("version").succeeds())?;
    fs::create_dir_all(folder)?;
    authority(folder, "ca")?;
    authority(folder, "stranger")?;
    certificate(folder, "ca", "server", "subjectAltName=IP:127.0.0.1", DAYS)?;
    certificate(folder, "ca", "client", "subjectAltName=DNS:client", DAYS)?;
    certificate(folder, "ca", "expired", "subjectAltName=DNS:client", PAST)?;
    certificate(folder, "stranger", "stranger-client", "subjectAltName=DNS:client", DAYS)?;
    let password = format!("pass:{KEY_PASSWORD}");
    openssl(
        folder,
        &["pkcs8", "-topk8", "-in", "client.key", "-out", "client-encrypted.key", "-passout", &password],
    )?;
    // A broker wants both in one file.
    let both =
        fs::read_to_string(folder.join("server.key"))? + &fs::read_to_string(folder.join("server.pem"))?;
    fs::write(folder.join("broker.pem"), both)?;
    Ok(())
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

fn authority(folder: &Path, name: &str) -> Result {
    let (subject, key, pem) =
        (format!("/CN=millstream {name}"), format!("{name}.key"), format!("{name}.pem"));
    let mut args = vec!["req", "-x509", "-days", DAYS, "-subj", &subject, "-keyout", &key, "-out", &pem];
    args.extend(NEW_KEY);
    openssl(folder, &args)
}

fn certificate(folder: &Path, ca: &str, name: &str, is: &str, days: &str) -> Result {
    let [key, request, pem, extensions] =
        ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
    let [ca_pem, ca_key] = ["pem", "key"].map(|ending| format!("{ca}.{ending}"));
    let subject = format!("/CN={name}");
    let mut args = vec!["req", "-new", "-subj", &subject, "-keyout", &key, "-out", &request];
    args.extend(NEW_KEY);
    openssl(folder, &args)?;
    fs::write(folder.join(&extensions), format!("{is}\nbasicConstraints=CA:FALSE\n"))?;
    let sign = [
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca_pem,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        days,
    ];
    openssl(folder, &[&sign[..], &["-extfile", &extensions, "-out", &pem]].concat())
}

/// Quietly: a dozen commands are of no interest unless one fails.
fn openssl(folder: &Path, args: &[&str]) -> Result {
    let run = Command::new("openssl").args(args).current_dir(folder).stdin(Stdio::null()).output()?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    Err(format!("`openssl {}` failed: {said}", args.first().unwrap_or(&"")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_signed_by_whom_it_says() {
        let folder = std::env::temp_dir().join(format!("millstream-certificates-{}", std::process::id()));
        make(&folder).unwrap();
        let verifies = |ca: &str, pem: &str| openssl(&folder, &["verify", "-CAfile", ca, pem]).is_ok();
        assert!(verifies("ca.pem", "server.pem") && verifies("ca.pem", "client.pem"));
        assert!(!verifies("ca.pem", "expired.pem"), "its time is over");
        assert!(
            !verifies("ca.pem", "stranger-client.pem") && verifies("stranger.pem", "stranger-client.pem")
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
