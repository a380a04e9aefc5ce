//! Free ports on loopback, remembered in a server's folder.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::Result;

/// So many that are free now.
pub(super) fn free(count: usize) -> Result<Vec<u16>> {
    // All are held until all are chosen, so that no two are the same.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// Chooses ports and writes them down.
pub(super) fn choose(home: &Path, count: usize) -> Result<Vec<u16>> {
    let ports = free(count)?;
    fs::create_dir_all(home)?;
    fs::write(home.join("ports"), ports.iter().map(|port| format!("{port}\n")).collect::<String>())?;
    Ok(ports)
}

/// Those that were chosen last.
pub(super) fn chosen(home: &Path, count: usize) -> Option<Vec<u16>> {
    let lines = fs::read_to_string(home.join("ports")).ok()?;
    let ports: Option<Vec<u16>> = lines.lines().map(|port| port.parse().ok()).collect();
    ports.filter(|ports| ports.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_again_and_those_of_an_older_version_of_us_are_not() {
        let home = std::env::temp_dir().join(format!("millstream-ports-{}", std::process::id()));
        let ports = choose(&home, 3).unwrap();
        assert_eq!(chosen(&home, 3), Some(ports));
        assert_eq!(chosen(&home, 4), None);
        fs::remove_dir_all(home).unwrap();
    }
}
