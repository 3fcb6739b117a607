//! Families of metrics by kind, in a few words each.

use std::{collections::HashMap, fmt};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

use super::help::help;
use crate::flow::Counts;

/// Writes one family after the other.
pub(super) struct Families<'a>(pub DescriptorEncoder<'a>);

/// The values of a family: labels, and the value under them.
type Labelled<'a, V, const N: usize, T> = &'a [([(&'a str, V); N], T)];

impl Families<'_> {
    pub(super) fn gauge(&mut self, name: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help(name), None, MetricType::Gauge)?.encode_gauge(&number(value))
    }

    /// One whose unit its name ends in.
    pub(super) fn gauge_in(&mut self, name: &str, unit: &str, value: u64) -> fmt::Result {
        let unit = Unit::Other(unit.to_owned());
        self.0.encode_descriptor(name, help(name), Some(&unit), MetricType::Gauge)?.encode_gauge(&number(value))
    }

    pub(super) fn gauges<V: EncodeLabelValue, const N: usize>(
        &mut self,
        name: &str,
        values: Labelled<'_, V, N, u64>,
    ) -> fmt::Result
    where
        for<'a> [(&'a str, V); N]: EncodeLabelSet,
    {
        let mut family = self.0.encode_descriptor(name, help(name), None, MetricType::Gauge)?;
        values.iter().try_for_each(|(labels, value)| family.encode_family(labels)?.encode_gauge(&number(*value)))
    }

    pub(super) fn counter(&mut self, name: &str, value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help(name), None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn counters<V: EncodeLabelValue, const N: usize>(
        &mut self,
        name: &str,
        values: Labelled<'_, V, N, u64>,
    ) -> fmt::Result
    where
        for<'a> [(&'a str, V); N]: EncodeLabelSet,
    {
        let mut family = self.0.encode_descriptor(name, help(name), None, MetricType::Counter)?;
        values.iter().try_for_each(|(labels, value)| {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    /// In seconds, with a bucket up to two to each of these powers of nanoseconds.
    pub(super) fn histogram(&mut self, name: &str, counts: &Counts, powers: impl Iterator<Item = u32>) -> fmt::Result {
        let buckets = buckets(counts, powers);
        let mut family = self.0.encode_descriptor(name, help(name), Some(&Unit::Seconds), MetricType::Histogram)?;
        family.encode_histogram(counts.sum().as_secs_f64(), counts.count(), &buckets, NO_EXEMPLARS)
    }

    pub(super) fn histograms<V: EncodeLabelValue, const N: usize>(
        &mut self,
        name: &str,
        values: Labelled<'_, V, N, &Counts>,
        powers: impl Iterator<Item = u32> + Clone,
    ) -> fmt::Result
    where
        for<'a> [(&'a str, V); N]: EncodeLabelSet,
    {
        let mut family = self.0.encode_descriptor(name, help(name), Some(&Unit::Seconds), MetricType::Histogram)?;
        values.iter().try_for_each(|(labels, counts)| {
            let buckets = buckets(counts, powers.clone());
            let mut one = family.encode_family(labels)?;
            one.encode_histogram(counts.sum().as_secs_f64(), counts.count(), &buckets, NO_EXEMPLARS)
        })
    }

    pub(super) fn info(&mut self, name: &str, labels: &[(&str, &str); 3]) -> fmt::Result {
        self.0.encode_descriptor(name, help(name), None, MetricType::Info)?.encode_info(labels)
    }
}

const NO_EXEMPLARS: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;

/// A gauge's value; indexes and sizes do not get near the end of it.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Each bucket's bound in seconds and its own count, the last one without a bound.
fn buckets(counts: &Counts, powers: impl Iterator<Item = u32>) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut buckets: Vec<_> = counts
        .cumulative(powers)
        .into_iter()
        .map(|(bound, count)| (bound.as_secs_f64(), count - std::mem::replace(&mut before, count)))
        .collect();
    buckets.push((f64::INFINITY, counts.count() - before));
    buckets
}
