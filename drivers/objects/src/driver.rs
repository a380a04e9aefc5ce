//! `folder://`, `s3://`, `gs://` and `az://` as a driver that can be chosen at run time.

use std::time::Duration;

use millstream_core::{Connection, Driver, Endpoint, Error, ErrorKind, Result};

#[cfg(feature = "azure")]
use crate::Azure;
#[cfg(feature = "gcs")]
use crate::Gcs;
#[cfg(feature = "s3")]
use crate::S3;
use crate::{Create, Folder, Objects, ObjectsBuilder, Per, Place};

const SCHEMES: &[&str] = &[
    "folder",
    #[cfg(feature = "s3")]
    "s3",
    #[cfg(feature = "gcs")]
    "gs",
    #[cfg(feature = "azure")]
    "az",
];

/// What each of them takes; beside it, a place has its own.
const COMMON: [&str; 3] = ["object_per", "write_within", "max_message"];

/// The driver of the scheme `folder`, and of `s3`, `gs` and `az` where their features are on.
///
/// | URL | is |
/// |---|---|
/// | `folder:///var/lib/letters` | a folder by its full path; `folder://letters` is one in the working directory |
/// | `s3://bucket/prefix` | a bucket of S3; `s3://key-id:secret@bucket/prefix` with credentials |
/// | `gs://bucket/prefix` | a bucket of Google Cloud Storage |
/// | `az://container/prefix` | a container of Azure Blob Storage; `az://account:key@container/prefix` with its account |
///
/// | parameter | is | default |
/// |---|---|---|
/// | `object_per` | what lies in one object: a `message`, or the messages of a `batch`; dead letters lie alone | `message` |
/// | `write_within` | how long a write is tried before its outcome is unknown | `15s` |
/// | `max_message` | bytes of a message at most | 67108864 |
/// | `create` | of a folder that is not there: `missing` makes it, `never` is an error | `missing` |
/// | `region` | of S3 | the environment's, else `us-east-1` |
/// | `endpoint` | the URL of a server that is not the cloud's own; with `http://` in the open | the cloud's |
/// | `credentials` | of Google: the file with the key of a service account | the environment's |
///
/// Special characters of a secret are percent-encoded, as in any URL. What the URL leaves out comes from the environment
/// (`AWS_…`, `GOOGLE_…`, `AZURE_…`), then from the machine's role.
#[must_use]
pub fn driver() -> Driver {
    Driver::new(SCHEMES, |endpoint| Box::pin(connect(endpoint)))
}

async fn connect(endpoint: Endpoint) -> Result<Connection> {
    Ok(builder(&endpoint)?.open().await?.connection())
}

/// What a URL says.
fn builder(endpoint: &Endpoint) -> Result<ObjectsBuilder> {
    let place: Place = match endpoint.scheme() {
        #[cfg(feature = "s3")]
        "s3" => s3(endpoint)?.into(),
        #[cfg(feature = "gcs")]
        "gs" => gcs(endpoint)?.into(),
        #[cfg(feature = "azure")]
        "az" => azure(endpoint)?.into(),
        _ => folder(endpoint)?.into(),
    };
    let mut builder = Objects::builder(place);
    if endpoint.scheme() != "folder" {
        builder = builder.prefix(endpoint.path().trim_matches('/'));
    }
    match endpoint.param("object_per") {
        None | Some("message") => {}
        Some("batch") => builder = builder.object_per(Per::Batch),
        Some(other) => {
            return bad(format!("the URL's parameter object_per is {other:?}"), "say message or batch");
        }
    }
    if let Some(within) = endpoint.parsed::<humantime::Duration>("write_within")? {
        builder = builder.write_within(Duration::from(within));
    }
    if let Some(bytes) = endpoint.parsed("max_message")? {
        builder = builder.max_message(bytes);
    }
    Ok(builder)
}

fn bad<T>(what: String, fix: &str) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix))
}

fn only(endpoint: &Endpoint, own: &[&str]) -> Result<()> {
    endpoint.only_params(&[own, &COMMON[..]].concat())
}

fn folder(endpoint: &Endpoint) -> Result<Folder> {
    only(endpoint, &["create"])?;
    let path = format!("{}{}", endpoint.host(), endpoint.path());
    if path.is_empty() || endpoint.user().is_some() {
        return bad(
            "the URL names no folder".to_owned(),
            "write it as folder:///var/lib/letters, or folder://letters for one in the working directory",
        );
    }
    let folder = Folder::new(path);
    match endpoint.param("create") {
        None | Some("missing") => Ok(folder),
        Some("never") => Ok(folder.create(Create::Never)),
        Some(other) => bad(format!("the URL's parameter create is {other:?}"), "say missing or never"),
    }
}

/// The bucket that a URL names, and the pair before it.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn bucket(endpoint: &Endpoint) -> Result<(String, Option<(String, String)>)> {
    let example = format!("write it as {}://name/prefix", endpoint.scheme());
    if endpoint.host().is_empty() || endpoint.host().contains([',', ':']) {
        return bad("the URL names no bucket".to_owned(), &example);
    }
    let pair = match (endpoint.user(), endpoint.password()) {
        (None, _) => None,
        (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
        (Some(_), None) => {
            return bad(
                "the URL has half of a pair before the @".to_owned(),
                "give both with a colon between them, special characters percent-encoded, or leave both out",
            );
        }
    };
    Ok((endpoint.host().to_owned(), pair))
}

#[cfg(feature = "s3")]
fn s3(endpoint: &Endpoint) -> Result<S3> {
    only(endpoint, &["region", "endpoint"])?;
    let (name, pair) = bucket(endpoint)?;
    let mut bucket = S3::new(name);
    if let Some((key_id, secret)) = pair {
        bucket = bucket.credentials(key_id, secret);
    }
    if let Some(region) = endpoint.param("region") {
        bucket = bucket.region(region);
    }
    if let Some(url) = endpoint.param("endpoint") {
        bucket = bucket.endpoint(url);
    }
    Ok(bucket)
}

#[cfg(feature = "gcs")]
fn gcs(endpoint: &Endpoint) -> Result<Gcs> {
    only(endpoint, &["endpoint", "credentials"])?;
    let (name, pair) = bucket(endpoint)?;
    if pair.is_some() {
        return bad(
            "Google Cloud Storage takes no password".to_owned(),
            "name the file of a service account's key: credentials=/etc/key.json",
        );
    }
    let mut bucket = Gcs::new(name);
    if let Some(url) = endpoint.param("endpoint") {
        bucket = bucket.endpoint(url);
    }
    if let Some(file) = endpoint.param("credentials") {
        bucket = bucket.credentials(file);
    }
    Ok(bucket)
}

#[cfg(feature = "azure")]
fn azure(endpoint: &Endpoint) -> Result<Azure> {
    only(endpoint, &["endpoint"])?;
    let (name, pair) = bucket(endpoint)?;
    let mut container = Azure::new(name);
    if let Some((account, key)) = pair {
        container = container.account(account).key(key);
    }
    if let Some(url) = endpoint.param("endpoint") {
        container = container.endpoint(url);
    }
    Ok(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<ObjectsBuilder> {
        builder(&Endpoint::parse(url).unwrap())
    }

    #[test]
    fn a_url_names_a_folder_by_its_full_path_or_from_here() {
        let path = |url: &str| folder(&Endpoint::parse(url).unwrap()).unwrap().path;
        assert_eq!(path("folder:///var/lib/letters"), std::path::Path::new("/var/lib/letters"));
        assert_eq!(path("folder://data/letters?create=never"), std::path::Path::new("data/letters"));
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_with_what_it_can() {
        for (url, part) in [
            ("folder://", "names no folder"),
            ("folder:///x?create=empty", "missing or never"),
            ("folder:///x?object_per=day", "message or batch"),
            ("folder:///x?region=r", "there are: create"),
            #[cfg(feature = "s3")]
            ("s3://", "names no bucket"),
            #[cfg(feature = "s3")]
            ("s3://key@bucket", "half of a pair"),
            #[cfg(feature = "s3")]
            ("s3://key:secret@bucket?create=never", "there are: region"),
            #[cfg(feature = "gcs")]
            ("gs://key:secret@bucket", "credentials="),
        ] {
            let error = of(url).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[cfg(all(feature = "s3", feature = "gcs", feature = "azure"))]
    #[test]
    fn no_secret_is_shown() {
        for url in [
            "s3://key:battery@bucket/a/b?endpoint=http://127.0.0.1:1&region=eu-central-1",
            "az://account:battery@container/a",
            "gs://bucket?credentials=/etc/key.json&write_within=1s",
        ] {
            let shown = format!("{:?}", of(url).unwrap());
            assert!(!shown.contains("battery"), "{shown}");
        }
    }
}
