//! `SOURCE_DATE_EPOCH`: seconds, or the name of what to take the time from.

use longshore_dockerfile::expand::{ExpandError, Lexer};
use longshore_dockerfile::instruction::{AddInstruction, CopySource, InstructionKind, Stage};
use longshore_graph::{HttpSource, LocalSource, Source};

use crate::arguments::EPOCH;
use crate::environment::Variables;
use crate::error::{Location, LowerError, Problem};
use crate::lowering::Lowering;
use crate::options::ContextSource;
use crate::stage::SCRATCH;
use crate::{git, remote};

/// Why `SOURCE_DATE_EPOCH` gives no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// Neither a number nor a name that there is.
    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    Invalid(String),
    /// The stage has a base.
    #[error("SOURCE_DATE_EPOCH stage must use FROM scratch")]
    NotScratch,
    /// The stage has no source, or several.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")]
    NotOneAdd,
    /// Its `ADD` has several sources.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")]
    NotOneSource,
    /// Its `ADD` is of a local file.
    #[error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")]
    NotRemote,
    /// It does more than add a source.
    #[error(
        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {0} instruction"
    )]
    Instruction(String),
}

impl Lowering<'_, '_> {
    /// The time that the build is to have, if any.
    pub(crate) async fn resolve_epoch(&mut self) -> Result<Option<i64>, LowerError> {
        let Some(value) = self.arguments.epoch().map(str::to_owned) else {
            return Ok(None);
        };
        let epoch = match value.parse::<i64>() {
            _ if value.is_empty() => None,
            Ok(seconds) => Some(seconds),
            Err(_) => match self.epoch_source(&value)? {
                Some(source) => {
                    self.build
                        .resolver
                        .source_time(&source)
                        .await
                        .map_err(|source| Problem::Resolve {
                            name: value,
                            source,
                        })?
                }
                None => None,
            },
        };
        self.arguments.set_epoch(epoch);
        Ok(epoch)
    }

    /// What `SOURCE_DATE_EPOCH` names. Nothing is known of the times of no context.
    fn epoch_source(&self, name: &str) -> Result<Option<Source>, LowerError> {
        if name == "context" {
            return Ok(match &self.build.options.main_context.source {
                ContextSource::Git(source) => Some(Source::Git(source.clone())),
                ContextSource::Http { source, .. } => Some(Source::Http(source.clone())),
                ContextSource::Local { name } => {
                    Some(Source::Local(LocalSource { name: name.clone() }))
                }
                ContextSource::Empty => None,
            });
        }
        if let Some(found) = self.find_context(name, None)? {
            return Ok(self.context_source(&found)?);
        }
        let is_named = |stage: &&Stage| {
            stage
                .name
                .as_ref()
                .is_some_and(|own| own.value == name.to_lowercase())
        };
        let stage = self.build.parsed.dockerfile.stages.iter().find(is_named);
        let stage = stage.ok_or_else(|| Problem::Epoch(EpochError::Invalid(name.to_owned())))?;
        let source = self.stage_source(stage);
        source
            .map(Some)
            .map_err(|error| error.at(&Location::of(&stage.origin)))
    }

    /// The one source that the stage adds.
    fn stage_source(&self, stage: &Stage) -> Result<Source, LowerError> {
        let mut variables = self.arguments.global.clone();
        variables.remove(EPOCH);
        if self.lexer.expand(&stage.base_name, &variables)?.word != SCRATCH {
            return Err(Problem::Epoch(EpochError::NotScratch).into());
        }
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(arg) => {
                    for declaration in &arg.declarations {
                        let name = declaration.name.value.as_str();
                        if let Some(given) = self.arguments.given(name) {
                            variables.set(name, given);
                        } else if let Some(default) = &declaration.default {
                            let value = self.lexer.expand(default, &variables)?.word;
                            variables.set(name, value);
                        }
                    }
                }
                InstructionKind::Add(_) if source.is_some() => {
                    return Err(Problem::Epoch(EpochError::NotOneAdd).into());
                }
                InstructionKind::Add(add) => {
                    source = Some(add_source(add, &variables, self.lexer)?);
                }
                _ => {
                    let keyword = instruction.origin.keyword.value.clone();
                    return Err(Problem::Epoch(EpochError::Instruction(keyword)).into());
                }
            }
        }
        source.ok_or_else(|| Problem::Epoch(EpochError::NotOneAdd).into())
    }
}

fn add_source(
    add: &AddInstruction,
    variables: &Variables,
    lexer: Lexer,
) -> Result<Source, Problem> {
    let expand =
        |word: &str| -> Result<String, ExpandError> { Ok(lexer.expand(word, variables)?.word) };
    let [CopySource::Path(path)] = add.sources.as_slice() else {
        return Err(Problem::Epoch(EpochError::NotOneSource));
    };
    let path = expand(path)?;
    let checksum = add.checksum.as_ref().map(|word| expand(word)).transpose()?;
    if let Some(git) = git::parse(&path) {
        let mut source = git?.into_source();
        source.keep_git_dir |= add.keep_git_dir == Some(true);
        source.checksum = checksum.or(source.checksum);
        return Ok(Source::Git(source));
    }
    if !remote::is_http(&path) {
        return Err(Problem::Epoch(EpochError::NotRemote));
    }
    let checksum = checksum.map(|text| text.parse()).transpose()?;
    let filename = remote::file_name(&path);
    Ok(Source::Http(HttpSource {
        url: path,
        checksum,
        filename,
        mode: None,
        owner: None,
    }))
}
