//! Choosing a driver by the scheme of a URL.

use millstream_core::{Connection, Driver, Endpoint, Error, ErrorKind, Result};

/// The drivers that [`Bus::connect`](crate::Bus::connect) chooses from.
///
/// ```no_run
/// # async fn example(my_driver: millstream::core::Driver) -> millstream::Result<()> {
/// use millstream::{Bus, Drivers};
/// let drivers = Drivers::built_in().with(my_driver);
/// let bus = Bus::connect_with(&drivers, "my://host/path").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Drivers {
    drivers: Vec<Driver>,
}

/// The schemes of the drivers that come with Millstream, and the feature that turns each on.
const FEATURES: &[(&str, &str)] = &[
    ("memory", "memory"),
    ("sqlite", "sqlite"),
    ("kafka", "kafka"),
    ("sqs", "sqs"),
    ("sns", "sns"),
    ("folder", "objects"),
    ("s3", "s3"),
    ("gs", "gcs"),
    ("az", "azure"),
];

impl Drivers {
    /// No drivers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those whose features are turned on.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            drivers: vec![
                #[cfg(feature = "memory")]
                millstream_memory::driver(),
                #[cfg(feature = "sqlite")]
                millstream_sqlite::driver(),
                #[cfg(feature = "kafka")]
                millstream_kafka::driver(),
                #[cfg(any(feature = "sqs", feature = "sns"))]
                millstream_aws::driver(),
                #[cfg(feature = "objects")]
                millstream_objects::driver(),
            ],
        }
    }

    /// Adds a driver; it goes before those of the same scheme.
    #[must_use]
    pub fn with(mut self, driver: Driver) -> Self {
        self.drivers.insert(0, driver);
        self
    }

    /// All schemes there are, in order.
    #[must_use]
    pub fn schemes(&self) -> Vec<&'static str> {
        let mut schemes: Vec<_> = self.drivers.iter().flat_map(Driver::schemes).copied().collect();
        schemes.sort_unstable();
        schemes.dedup();
        schemes
    }

    /// Connects with the driver of the URL's scheme.
    ///
    /// # Errors
    /// [`UnknownScheme`](ErrorKind::UnknownScheme) if there is none, with those there are and the feature to turn
    /// on; [`InvalidConfig`](ErrorKind::InvalidConfig) for a URL that is none; else what the driver says.
    pub async fn connect(&self, url: &str) -> Result<Connection> {
        let endpoint = Endpoint::parse(url)?;
        match self.drivers.iter().find(|d| d.schemes().contains(&endpoint.scheme())) {
            Some(driver) => driver.connect(endpoint).await,
            None => Err(self.unknown(endpoint.scheme())),
        }
    }

    fn unknown(&self, scheme: &str) -> Error {
        let error = Error::new(ErrorKind::UnknownScheme, format!("no driver serves {scheme}://"));
        if let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == scheme) {
            return error.fix(format!(
                "turn its feature on in Cargo.toml: millstream = {{ features = [\"{feature}\"] }}"
            ));
        }
        let known = match self.schemes().as_slice() {
            [] => "there is no driver at all: turn a feature of millstream on, such as \"memory\"".to_owned(),
            schemes => format!(
                "use one of {}",
                schemes.iter().map(|s| format!("{s}://")).collect::<Vec<_>>().join(", ")
            ),
        };
        let off: Vec<_> = FEATURES
            .iter()
            .filter(|(scheme, _)| !self.schemes().contains(scheme))
            .map(|(scheme, feature)| format!("{scheme}:// (feature \"{feature}\")"))
            .collect();
        let more = if off.is_empty() { String::new() } else { format!("; turned off: {}", off.join(", ")) };
        error.fix(format!("{known}{more}; or add a driver of your own with `Drivers::with`"))
    }
}
