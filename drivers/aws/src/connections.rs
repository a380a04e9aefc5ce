//! HTTP connections: rustls with ring, and a way to leave all of them behind.
//!
//! When a network forgets its connections, each one that waits in the pool has to time out before the next is tried: with
//! sixteen of them that took forty seconds. So whoever runs into one that is dead begins anew with none.

use std::sync::{Arc, PoisonError, RwLock};

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// A pool of connections. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    current: Arc<RwLock<Pool>>,
}

#[derive(Debug)]
struct Pool {
    number: u64,
    client: SharedHttpClient,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { current: Arc::new(RwLock::new(Pool { number: 0, client: client() })) }
    }

    /// Which pool is in use.
    pub(crate) fn number(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Leaves the connections of this pool behind, unless somebody has done that already. What is under way on them goes
    /// on.
    pub(crate) fn leave(&self, number: u64) {
        let mut pool = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if pool.number == number {
            *pool = Pool { number: number + 1, client: client() };
        }
    }
}

impl HttpClient for Connections {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let pool = self.current.read().unwrap_or_else(PoisonError::into_inner);
        pool.client.http_connector(settings, components)
    }
}

fn client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_left_once_however_many_run_into_it() {
        let connections = Connections::new();
        let seen = connections.number();
        connections.leave(seen);
        connections.leave(seen);
        assert_eq!(connections.number(), seen + 1);
    }
}
