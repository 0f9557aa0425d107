//! What can be asked of a Dockerfile.

use longshore_dockerfile::Parsed;
use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_graph::Graph;
use longshore_oci::Platform;

use crate::arguments::parse_truth;
use crate::error::{LowerError, Problem};
use crate::lowered::Lowered;
use crate::lowering::{Build, Lowering, Shared};
use crate::options::BuildOptions;
use crate::outline::Outline;
use crate::resolve::ImageResolver;

/// What the build checks found.
#[derive(Debug)]
pub struct CheckReport {
    /// Warnings by line; those that the Dockerfile does not want are left out.
    pub diagnostics: Vec<Diagnostic>,
    /// Why it could not be built; what was found until then is above.
    pub error: Option<LowerError>,
}

/// Lowers a Dockerfile for all platforms asked for.
///
/// # Errors
/// What [`Problem`] says; with the warnings until then.
pub async fn lower(
    parsed: &Parsed,
    options: &BuildOptions,
    resolver: &dyn ImageResolver,
) -> Result<Lowered, LowerError> {
    let build = prepare(parsed, options, resolver, false)?;
    let mut shared = Shared::default();
    let mut platforms = Vec::new();
    let mut diagnostics = None;
    for platform in requested_platforms(options) {
        let mut lowering = Lowering::new(&build, &mut shared, platform);
        let target = match lowering.run().await {
            Ok(target) => target,
            Err(error) => return Err(with_diagnostics(error, &lowering)),
        };
        // Warnings of further platforms would be the same ones again.
        if diagnostics.is_none() {
            diagnostics = Some(lowering.wanted_diagnostics()?);
        }
        platforms.push(lowering.result(target)?);
    }
    Ok(Lowered {
        graph: shared.graph.finish(),
        platforms,
        local_paths: shared.local_paths,
        multi_platform: build.multi_platform,
        diagnostics: diagnostics.unwrap_or_default(),
    })
}

/// What a target stands on, or all stages if none is asked for, whatever a build would need of
/// it: a graph of all that they name.
///
/// # Errors
/// As for [`lower`].
pub async fn survey(
    parsed: &Parsed,
    options: &BuildOptions,
    resolver: &dyn ImageResolver,
) -> Result<Graph, LowerError> {
    let build = prepare(parsed, options, resolver, options.target.is_none())?;
    let mut shared = Shared::default();
    for platform in requested_platforms(options) {
        let mut lowering = Lowering::new(&build, &mut shared, platform);
        if let Err(error) = lowering.run().await {
            return Err(with_diagnostics(error, &lowering));
        }
    }
    Ok(shared.graph.finish())
}

/// Runs the build checks on a target, or on all stages if none is asked for.
pub async fn check(
    parsed: &Parsed,
    options: &BuildOptions,
    resolver: &dyn ImageResolver,
) -> CheckReport {
    let build = match prepare(parsed, options, resolver, options.target.is_none()) {
        Ok(build) => build,
        Err(error) => return CheckReport::failed(error, parsed),
    };
    let mut shared = Shared::default();
    let platform = requested_platforms(options).into_iter().next().flatten();
    let mut lowering = Lowering::new(&build, &mut shared, platform);
    let error = lowering.run().await.err();
    match lowering.wanted_diagnostics() {
        Ok(diagnostics) => CheckReport { diagnostics, error },
        Err(error) => CheckReport::failed(error, parsed),
    }
}

/// What the target can be given.
///
/// # Errors
/// As for [`lower`].
pub async fn outline(
    parsed: &Parsed,
    options: &BuildOptions,
    resolver: &dyn ImageResolver,
) -> Result<Outline, LowerError> {
    let build = prepare(parsed, options, resolver, false)?;
    let mut shared = Shared::default();
    let platform = requested_platforms(options).into_iter().next().flatten();
    let mut lowering = Lowering::new(&build, &mut shared, platform);
    match lowering.run().await {
        Ok(target) => Ok(lowering.outline(target)),
        Err(error) => Err(with_diagnostics(error, &lowering)),
    }
}

impl CheckReport {
    fn failed(error: LowerError, parsed: &Parsed) -> Self {
        let filter = longshore_dockerfile::check::CheckFilter::new(&parsed.dockerfile, None);
        let findings = parsed
            .diagnostics
            .iter()
            .filter(|found| found.rule().is_some());
        let wanted = findings.filter(|found| filter.wants(found)).cloned();
        Self {
            diagnostics: wanted.collect(),
            error: Some(error),
        }
    }
}

fn prepare<'a>(
    parsed: &'a Parsed,
    options: &'a BuildOptions,
    resolver: &'a dyn ImageResolver,
    all_stages: bool,
) -> Result<Build<'a>, LowerError> {
    if let Some(error) = parsed.first_error() {
        return Err(Problem::Syntax(Box::new(error.clone())).into());
    }
    let given = options
        .build_arg("BUILDKIT_MULTI_PLATFORM")
        .and_then(parse_truth);
    let multi_platform = given
        .or(options.multi_platform)
        .unwrap_or(options.platforms.len() > 1);
    Ok(Build {
        parsed,
        options,
        resolver,
        multi_platform,
        all_stages,
    })
}

/// The platforms in order; a single nothing if none was asked for.
fn requested_platforms(options: &BuildOptions) -> Vec<Option<&Platform>> {
    if options.platforms.is_empty() {
        return vec![None];
    }
    options.platforms.iter().map(Some).collect()
}

fn with_diagnostics(mut error: LowerError, lowering: &Lowering<'_, '_>) -> LowerError {
    // Faulty check options are the error itself.
    error.diagnostics = lowering.wanted_diagnostics().unwrap_or_default();
    error
}
