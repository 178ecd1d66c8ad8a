//! Kubernetes quantities: `100m`, `64Mi`, `1.5G`, `2e3`.
//!
//! Source: the comment on `Quantity` in k8s.io/apimachinery, pkg/api/resource. Fractions are rounded up,
//! so that a tiny request is not none.

/// An amount of something, kept in billionths, which is the finest that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(i128);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("is no quantity such as 500m, 0.5, 64Mi or 1G")]
pub(crate) struct BadQuantity;

const BILLION: i128 = 1_000_000_000;
/// Longer numbers mean nothing that a machine has.
const MOST_DIGITS: usize = 30;

impl Quantity {
    /// # Errors
    /// [`BadQuantity`] if the text is none, is negative, or is more than 2^63 - 1.
    pub(crate) fn parse(text: &str) -> Result<Self, BadQuantity> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = whole.len() + fraction.len();
        if digits == 0 || digits > MOST_DIGITS || fraction.contains('.') {
            return Err(BadQuantity);
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| BadQuantity)?;
        let (factor, power) = scale(suffix)?;
        // value = mantissa * factor * 10^(power - fraction's digits), in billionths 10^9 times that.
        let scaled = mantissa.checked_mul(factor).ok_or(BadQuantity)?;
        let power = power + 9 - i32::try_from(fraction.len()).map_err(|_| BadQuantity)?;
        let ten = 10_i128.checked_pow(power.unsigned_abs());
        let billionths = match (ten, power >= 0) {
            (Some(ten), true) => scaled.checked_mul(ten).ok_or(BadQuantity)?,
            (None, true) if scaled != 0 => return Err(BadQuantity),
            (None, true) => 0,
            (Some(ten), false) => up(scaled, ten),
            (None, false) => i128::from(scaled != 0),
        };
        if billionths > i128::from(i64::MAX) * BILLION { Err(BadQuantity) } else { Ok(Self(billionths)) }
    }

    /// Whole units, rounded up.
    pub(crate) fn value(self) -> i64 {
        i64::try_from(up(self.0, BILLION)).unwrap_or(i64::MAX)
    }

    /// Thousandths, rounded up.
    pub(crate) fn milli(self) -> i64 {
        i64::try_from(up(self.0, 1_000_000)).unwrap_or(i64::MAX)
    }
}

/// Division of what is not negative, rounded up.
fn up(number: i128, by: i128) -> i128 {
    number / by + i128::from(number % by != 0)
}

/// What a suffix multiplies with: a factor, and a power of ten.
fn scale(suffix: &str) -> Result<(i128, i32), BadQuantity> {
    let binary = |n: u32| Ok((1_i128 << (10 * n), 0));
    let decimal = |n: i32| Ok((1, n));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E']).ok_or(BadQuantity)?;
            let power: i32 = power.parse().map_err(|_| BadQuantity)?;
            if power.abs() <= 30 { decimal(power) } else { Err(BadQuantity) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        for (text, value, milli) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("0.1", 1, 100),
            (".5", 1, 500),
            ("1.", 1, 1000),
            ("+2", 2, 2000),
            ("1n", 1, 1),
            ("1500u", 1, 2),
            ("64Mi", 64 << 20, 64_000 << 20),
            ("1.5Gi", 3 << 29, 3_000 << 29),
            ("1k", 1000, 1_000_000),
            ("128974848", 128_974_848, 128_974_848_000),
            ("129e6", 129_000_000, 129_000_000_000),
            ("129M", 129_000_000, 129_000_000_000),
            ("128974848000m", 128_974_848, 128_974_848_000),
            ("1E3", 1000, 1_000_000),
            ("5e-1", 1, 500),
        ] {
            let quantity = Quantity::parse(text).expect(text);
            assert_eq!((quantity.value(), quantity.milli()), (value, milli), "{text}");
        }
        assert_eq!(Quantity::parse("7Ei").expect("7Ei").value(), 7 << 60);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        let nines = "9".repeat(40);
        for text in [
            "", "-1", "1.2.3", "m", "1 Mi", "1mi", "64MB", "0x10", "1e99", "e3", "1e", "8Ei", "20E", "∞",
            ".", &nines,
        ] {
            assert_eq!(Quantity::parse(text), Err(BadQuantity), "{text:?}");
        }
    }
}
