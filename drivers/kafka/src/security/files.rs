//! The files of TLS, looked at before a broker is asked: one that is not there or is no PEM has a name, where the client
//! library and the broker only know that something failed.

use std::path::Path;

use millstream_core::{Error, ErrorKind, Result};

/// The content of a file that must be PEM of a kind.
pub(super) fn pem(name: &str, path: &Path, kind: &str) -> Result<String> {
    let bad = |what: String| Error::new(ErrorKind::InvalidConfig, what);
    let shown = path.display();
    if path.to_str().is_none_or(|path| path.contains('\0')) {
        return Err(bad(format!("the path of {name} is no text: {shown}")).fix("rename the file"));
    }
    let bytes = std::fs::read(path).map_err(|e| {
        bad(format!("{name}: {shown} cannot be read: {e}"))
            .fix("check the path, and whether this user may read it")
    })?;
    let content = String::from_utf8_lossy(&bytes).into_owned();
    let begins = content.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind));
    if begins {
        return Ok(content);
    }
    let wanted = kind.to_lowercase();
    Err(bad(format!("{name}: {shown} holds no {wanted} in PEM"))
        .fix(format!("give it in PEM, which has a line with -----BEGIN and {kind}")))
}

/// A path as the client library wants it. That it is text was seen before.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named() {
        let error = pem("ca", Path::new("/no/such/ca.pem"), "CERTIFICATE").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("ca: /no/such/ca.pem cannot be read"), "{error}");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = pem("ca", &here, "CERTIFICATE").unwrap_err().to_string();
        assert!(error.contains("Cargo.toml holds no certificate in PEM"), "{error}");
    }
}
