//! Instruments of OpenTelemetry as Prometheus text.
//!
//! A name found in an alert is to be found in the code, so instruments are called as they appear on the wire, units
//! included, and the exporter's own suffixes are switched off.

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

pub use opentelemetry_sdk::error::OTelSdkError;
pub use prometheus::Error as TextError;

/// Where instruments are made, and read from.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
    /// Held on to: the registry's reader only has a weak reference to the instruments.
    provider: SdkMeterProvider,
}

impl Exporter {
    /// Without an instrument.
    ///
    /// # Errors
    /// What OpenTelemetry says where it cannot be built.
    pub fn new() -> Result<Exporter, OTelSdkError> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build()?;
        // An empty resource: nothing of the environment becomes a label.
        let resource = Resource::builder_empty().build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        Ok(Exporter { registry, provider })
    }

    /// A meter of this name. Its instruments live as long as the exporter.
    pub fn meter(&self, name: &'static str) -> Meter {
        self.provider.meter(name)
    }

    /// What the instruments say now.
    ///
    /// # Errors
    /// What the encoder says where it refuses.
    pub fn text(&self) -> Result<String, TextError> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_instruments_and_labels_those_of_the_values() {
        let exporter = Exporter::new().unwrap();
        let meter = exporter.meter("payments");
        // The instruments live on in the exporter.
        meter.u64_counter("payments_seen").with_unit("s").with_description("Seen.").build().add(3, &[]);
        let text = exporter.text().unwrap();
        assert_eq!(text, "# HELP payments_seen Seen.\n# TYPE payments_seen counter\npayments_seen 3\n");
    }
}
