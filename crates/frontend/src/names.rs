//! What vertices are called: `[linux/arm64 build 2/5] RUN make`.

use longshore_dockerfile::expand::{Environment, Lexer};
use longshore_oci::Platform;

use crate::environment::Variables;
use crate::stage::Stage;

/// The text of an instruction as it is shown: its keyword in upper case, variables replaced.
pub(crate) fn shown_command(lexer: Lexer, text: &str, environment: &dyn Environment) -> String {
    let shown = match lexer.expand(text, environment) {
        Ok(expansion) => expansion.word,
        Err(_) => text.to_owned(),
    };
    match shown.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => shown.to_uppercase(),
    }
}

/// Which platform a name begins with.
pub(crate) struct ShownPlatform<'a> {
    /// The one that the step runs on.
    pub(crate) platform: &'a Platform,
    /// Where a build for another platform says so.
    pub(crate) environment: &'a Variables,
}

/// The name of the stage's next numbered step.
pub(crate) fn next_step(
    stage: &mut Stage<'_>,
    shown: Option<&ShownPlatform<'_>>,
    trigger: bool,
    command: &str,
) -> String {
    stage.step += 1;
    step_name(stage, shown, trigger, command)
}

/// The name of the stage's current step. A stage without steps has no numbers.
pub(crate) fn step_name(
    stage: &Stage<'_>,
    shown: Option<&ShownPlatform<'_>>,
    trigger: bool,
    command: &str,
) -> String {
    if stage.steps == 0 {
        return command.to_owned();
    }
    let mut name = "[".to_owned();
    if let Some(shown) = shown {
        name += &format!("{}{} ", shown.platform, shown.cross_target());
    }
    if !stage.shown_name.is_empty() {
        name += &format!("{} ", stage.shown_name);
    }
    let width = stage.steps.to_string().len();
    name += &format!("{:>width$}/{}] ", stage.step, stage.steps);
    if trigger {
        name += "ONBUILD ";
    }
    name + command
}

impl ShownPlatform<'_> {
    /// `->arm64` where the variables say that the step makes something for another platform.
    fn cross_target(&self) -> String {
        let Some(target) = target_platform(self.environment, self.platform) else {
            return String::new();
        };
        if target.os != self.platform.os {
            return format!("->{target}");
        }
        if target.architecture == self.platform.architecture {
            return String::new();
        }
        match target.variant.as_str() {
            "" => format!("->{}", target.architecture),
            variant => format!("->{}/{variant}", target.architecture),
        }
    }
}

/// What `TARGETPLATFORM`, or else `TARGETOS`, `TARGETARCH` and `TARGETVARIANT`, say.
fn target_platform(environment: &Variables, base: &Platform) -> Option<Platform> {
    let (mut os, mut architecture, mut variant) = ("", "", "");
    let mut is_set = false;
    for name in environment.names() {
        let value = environment.get(name).unwrap_or_default();
        match name {
            "TARGETPLATFORM" => match value.parse() {
                Ok(platform) => return Some(platform),
                Err(_) => continue,
            },
            "TARGETOS" => os = value,
            "TARGETARCH" => architecture = value,
            "TARGETVARIANT" => variant = value,
            _ => continue,
        }
        is_set = true;
    }
    let os = if os.is_empty() { &base.os } else { os };
    let architecture = if architecture.is_empty() {
        &base.architecture
    } else {
        architecture
    };
    is_set.then(|| Platform::new(os, architecture, variant))
}
