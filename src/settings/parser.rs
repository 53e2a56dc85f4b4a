//! Parses variables, and collects a warning for each that is invalid.

use crate::message::MAX_SHOWN;
use std::str::FromStr;

use super::variables::{Environment, Variable};

/// A variable that is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The variable.
    pub variable: Variable,
    /// The message: the value, what is accepted, and what applies instead.
    pub text: String,
}

/// What a variable holds.
pub(super) enum Parsed<T> {
    Unset,
    Invalid,
    Valid(T),
}

impl<T> Parsed<T> {
    pub(super) fn valid(self) -> Option<T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Unset | Self::Invalid => None,
        }
    }
}

pub(super) struct Parser<'a> {
    pub(super) environment: &'a Environment,
    pub(super) warnings: Vec<Warning>,
}

impl Parser<'_> {
    /// Parses a variable, and warns if it is invalid.
    pub(super) fn parse<T>(&mut self, variable: Variable, parse: impl Fn(&str) -> Option<T>) -> Parsed<T> {
        let Some(text) = self.environment.get(variable) else { return Parsed::Unset };
        if let Some(value) = parse(text) {
            return Parsed::Valid(value);
        }
        let instead = match variable.row().default {
            "" => "it is ignored".to_owned(),
            default => format!("{default} is used"),
        };
        self.warn(variable, text, &instead);
        Parsed::Invalid
    }

    /// Parses a variable that is true or false.
    pub(super) fn parse_flag(&mut self, variable: Variable) -> Option<bool> {
        self.parse(variable, parse_bool).valid()
    }

    /// Parses a variable or, if it is unset, the one that it replaces. An invalid one hides the one that it replaces.
    pub(super) fn parse_newer<T>(
        &mut self,
        newer: Variable,
        older: Variable,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        match self.parse(newer, &parse) {
            Parsed::Unset => self.parse(older, parse).valid(),
            parsed => parsed.valid(),
        }
    }

    /// Parses the first of these variables that holds a valid value, and gives it with that variable's name.
    pub(super) fn parse_first<T>(
        &mut self,
        variables: [Variable; 2],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<(T, &'static str)> {
        variables
            .into_iter()
            .find_map(|variable| Some((self.parse(variable, &parse).valid()?, variable.row().name)))
    }

    pub(super) fn warn(&mut self, variable: Variable, value: &str, instead: &str) {
        self.warn_expecting(variable, value, variable.row().accepts, instead);
    }

    /// Warns of a mistake for which only a part of what the variable accepts matters.
    pub(super) fn warn_expecting(&mut self, variable: Variable, value: &str, accepted: &str, instead: &str) {
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        let text = format!("{}={shown:?}: expected {accepted}; {instead}", variable.row().name);
        self.warnings.push(Warning { variable, text });
    }
}

pub(super) fn parse_as<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}
