//! Build arguments: what the build gives, what the platform sets, what stands before `FROM`.

use std::collections::{BTreeMap, BTreeSet};

use longshore_dockerfile::check::CheckOptions;
use longshore_dockerfile::expand::{Environment as _, ExpandError, Lexer};
use longshore_dockerfile::instruction::Dockerfile;
use longshore_oci::Platform;

use crate::environment::Variables;
use crate::error::{Location, LowerError, Problem};
use crate::lowering::Build;
use crate::outline::ArgInfo;

pub(crate) const EPOCH: &str = "SOURCE_DATE_EPOCH";
pub(crate) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
pub(crate) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Whether an argument of this name is no variable of `RUN` steps.
pub(crate) fn is_never_exported(name: &str) -> bool {
    matches!(name, SCAN_CONTEXT | SCAN_STAGE)
}

pub(crate) struct Arguments {
    /// Given to the build.
    given: BTreeMap<String, String>,
    /// What `FROM` lines see.
    pub(crate) global: Variables,
    /// What the `ARG`s before the first `FROM` declare.
    pub(crate) declared: BTreeMap<String, ArgInfo>,
}

impl Arguments {
    pub(crate) fn new(build: &Build<'_>, target: &Platform) -> Self {
        let options = build.options;
        let mut given: BTreeMap<String, String> = options.build_args.iter().cloned().collect();
        if let Some(epoch) = &options.source_date_epoch {
            given
                .entry(EPOCH.to_owned())
                .or_insert_with(|| epoch.clone());
        }
        let last = || build.parsed.dockerfile.stages.last()?.name.as_ref();
        let stage = options
            .target
            .as_deref()
            .or_else(|| last().map(|name| name.value.as_str()));
        let mut global = Variables::default();
        for (name, value) in platform_arguments(&options.build_platform, target, stage) {
            let value = given.get(name).cloned().unwrap_or(value);
            global.set(name, value);
        }
        Self {
            given,
            global,
            declared: BTreeMap::new(),
        }
    }

    /// The value given to the build.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// Whether an argument of the builder's own is given and true.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.given(name)
            .is_some_and(|value| parse_truth(value) == Some(true))
    }

    /// `BUILDKIT_DOCKERFILE_CHECK`.
    pub(crate) fn check_options(&self) -> Result<Option<CheckOptions>, LowerError> {
        let options = self
            .given("BUILDKIT_DOCKERFILE_CHECK")
            .map(CheckOptions::parse)
            .transpose();
        Ok(options.map_err(Problem::CheckOptions)?)
    }

    /// Reads the `ARG`s before the first `FROM`.
    pub(crate) fn read_global(
        &mut self,
        dockerfile: &Dockerfile,
        lexer: Lexer,
    ) -> Result<(), LowerError> {
        for arg in &dockerfile.global_args {
            for declaration in &arg.arg.declarations {
                let name = declaration.name.value.as_str();
                let default = declaration.default.as_ref().map(|word| word.value.as_str());
                let info = self
                    .read_declaration(name, default, lexer)
                    .map_err(|error| LowerError::from(error).at(&Location::of(&arg.origin)))?;
                let description = declaration.doc_comment.clone().unwrap_or_default();
                let info = ArgInfo {
                    description,
                    line: arg.origin.line(),
                    ..info
                };
                self.declared.insert(name.to_owned(), info);
            }
        }
        Ok(())
    }

    fn read_declaration(
        &mut self,
        name: &str,
        default: Option<&str>,
        lexer: Lexer,
    ) -> Result<ArgInfo, ExpandError> {
        let mut info = ArgInfo::default();
        let value = match (self.given(name), default) {
            (Some(given), _) => given.to_owned(),
            (None, None) => return Ok(info),
            (None, Some(default)) => {
                let expansion = lexer.expand(default, &self.global)?;
                info.dependencies = expansion.matched;
                // `ARG A=$A-x` depends on what the earlier A depends on.
                if info.dependencies.remove(name)
                    && let Some(earlier) = self.declared.get(name)
                {
                    info.dependencies
                        .extend(earlier.dependencies.iter().cloned());
                }
                expansion.word
            }
        };
        self.global.set(name, value.clone());
        info.value = value;
        Ok(info)
    }

    /// What `FROM` lines see if the build gives no argument; nothing if a default is faulty.
    pub(crate) fn defaults_alone(
        &self,
        dockerfile: &Dockerfile,
        lexer: Lexer,
    ) -> Option<Variables> {
        let mut variables = self.global.clone();
        for declaration in dockerfile
            .global_args
            .iter()
            .flat_map(|arg| &arg.arg.declarations)
        {
            if let Some(default) = &declaration.default {
                let value = lexer.expand(default, &variables).ok()?.word;
                variables.set(&declaration.name, value);
            }
        }
        Some(variables)
    }

    /// The names that `FROM` lines may use.
    pub(crate) fn global_names(&self) -> BTreeSet<&str> {
        self.global
            .names()
            .chain(self.declared.keys().map(String::as_str))
            .collect()
    }

    /// `SOURCE_DATE_EPOCH`: given to the build (empty switches it off), else a global `ARG`.
    pub(crate) fn epoch(&self) -> Option<&str> {
        let global = || self.global.lookup(EPOCH).filter(|value| !value.is_empty());
        self.given(EPOCH).or_else(global)
    }

    /// Puts the resolved epoch in the place of what named it.
    pub(crate) fn set_epoch(&mut self, epoch: Option<i64>) {
        let is_global = self.global.get(EPOCH).is_some();
        match epoch.map(|seconds| seconds.to_string()) {
            Some(text) => {
                if is_global {
                    self.global.set(EPOCH, text.clone());
                }
                if let Some(given) = self.given.get_mut(EPOCH) {
                    *given = text;
                }
            }
            None => {
                self.given.remove(EPOCH);
                self.global.remove(EPOCH);
            }
        }
    }

    /// The proxies among the arguments, in upper and lower case as programs look for them.
    pub(crate) fn proxies(&self) -> BTreeMap<String, String> {
        let mut proxies = BTreeMap::new();
        // Lower-case names come last in order, and win.
        for (name, value) in self.given.iter().filter(|(_, value)| !value.is_empty()) {
            let upper = name.to_uppercase();
            if PROXIES.contains(&upper.as_str()) {
                proxies.insert(upper.to_lowercase(), value.clone());
                proxies.insert(upper, value.clone());
            }
        }
        proxies
    }
}

/// The arguments that every Dockerfile has, in order.
fn platform_arguments(
    build: &Platform,
    target: &Platform,
    stage: Option<&str>,
) -> [(&'static str, String); 11] {
    let stage = stage.filter(|name| !name.is_empty()).unwrap_or("default");
    [
        (
            "BUILDPLATFORM",
            Platform {
                os_version: String::new(),
                ..build.clone()
            }
            .to_string(),
        ),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.to_owned()),
    ]
}

/// `strconv.ParseBool`.
pub(crate) fn parse_truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Whether `BUILDKIT_SBOM_SCAN_…` covers a stage: a truth value, or a list of stages.
pub(crate) fn scan_covers(stage: &str, value: &str) -> bool {
    parse_truth(value).unwrap_or_else(|| value.split(',').any(|name| name == stage))
}
