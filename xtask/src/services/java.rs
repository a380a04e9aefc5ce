//! Java programs from the jars of Maven Central.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{program, text};
use crate::command::Run;
use crate::{Result, cache, tools};

/// Group, artifact, version.
pub(super) type Jar = (&'static str, &'static str, &'static str);

/// A program, by the jars that it needs; Maven finds those that they need.
pub(super) struct Java {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) jars: &'static [Jar],
}

impl Java {
    /// The folder of the jars, which are brought into the cache if they are not there.
    pub(super) fn install(&self) -> Result<PathBuf> {
        let folder = cache::dir()?.join("services").join(format!("{}-{}", self.name, self.version));
        let (lib, pom, done) = (folder.join("lib"), folder.join("pom.xml"), folder.join("complete"));
        tools::system("default-jre-headless", || Run::new("java").arg("-version").succeeds())?;
        if done.exists() {
            return Ok(lib);
        }
        tools::system("maven", || Run::new("mvn").arg("--version").succeeds())?;
        fs::create_dir_all(&folder)?;
        fs::write(&pom, self.pom())?;
        Run::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(text(&pom))
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", lib.display()))
            .run()?;
        fs::write(done, "")?;
        Ok(lib)
    }

    fn pom(&self) -> String {
        let mut dependencies = String::new();
        for (group, artifact, version) in self.jars {
            let _ = write!(
                dependencies,
                "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
                 <version>{version}</version></dependency>"
            );
        }
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
             <groupId>millstream</groupId><artifactId>{}</artifactId><version>1</version>\
             <dependencies>{dependencies}</dependencies></project>\n",
            self.name
        )
    }
}

/// Java with these jars.
pub(super) fn command(lib: &Path) -> Command {
    let mut java = program("java");
    java.args(["-cp", &format!("{}/*", lib.display())]);
    java
}

/// What makes it start sooner: half compiled, with a simple collector.
pub(super) const SOONER: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// What makes it quick once it is warm: fully compiled, with room.
pub(super) const QUICKER: [&str; 2] = ["-XX:+UseParallelGC", "-Xmx1g"];
