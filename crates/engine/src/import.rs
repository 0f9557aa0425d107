//! Makes an image from a root file system's archive.

use std::collections::BTreeMap;
use std::io::{self, Read};

use jiff::Timestamp;
use longshore_dockerfile::instruction::{CommandForm, HealthcheckInstruction, InstructionKind};
use longshore_dockerfile::parse_trigger;
use longshore_layers::{Compression, Compressor, Decompressor, TarLimits, index_of_tar};
use longshore_oci::{
    Algorithm, Descriptor, DiffId, Digester, Empty, HistoryEntry, ImageConfig, Platform, Reference,
    media_type,
};

use crate::build::{ImageLayer, assemble};
use crate::{Engine, EngineError, GZIP_LEVEL_DEFAULT};

/// What an import makes.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The image's name; without one it is dangling.
    pub name: Option<Reference>,
    /// Dockerfile instructions for the configuration (`CMD`, `ENV`, …).
    pub changes: Vec<String>,
    /// A remark for the history.
    pub message: String,
    /// The image's platform.
    pub platform: Platform,
}

impl Engine {
    /// Makes an image from an archive, plain or compressed.
    ///
    /// # Errors
    /// When the archive is damaged, or a change is no instruction that can be imported.
    pub fn import(
        &self,
        input: impl Read + Send,
        request: &ImportRequest,
    ) -> Result<Descriptor, EngineError> {
        let mut config = ImageConfig {
            architecture: request.platform.architecture.clone(),
            os: request.platform.os.clone(),
            variant: request.platform.variant.clone(),
            ..ImageConfig::default()
        };
        for change in &request.changes {
            apply_change(&mut config, change)?;
        }
        let layer = self.import_layer(input)?;
        config.history.push(HistoryEntry {
            created: Some(layer.created.to_string()),
            created_by: "longshore import".to_owned(),
            comment: request.message.clone(),
            ..HistoryEntry::default()
        });
        let image = assemble(&config, &[layer], true, &BTreeMap::new(), None)?;
        let mut descriptor = image.descriptor;
        descriptor.platform = None;
        self.root().blobs().put(&image.config)?;
        self.root().blobs().put(&image.manifest)?;
        let images = self.root().images();
        match &request.name {
            Some(name) => images.set(&name.clone().with_default_tag().to_string(), &descriptor)?,
            None => images.add_dangling(&descriptor)?,
        }
        Ok(descriptor)
    }

    /// Stores the archive as a layer: read, checked and compressed in one pass.
    fn import_layer(&self, input: impl Read + Send) -> Result<ImageLayer, EngineError> {
        let failed = || "archive";
        let limits = self.unpack_limits();
        let input = Decompressor::new(input, limits).map_err(EngineError::layer(failed()))?;
        let writer = self.root().blobs().writer()?;
        let compression = Compression::Gzip {
            level: GZIP_LEVEL_DEFAULT,
        };
        let sink = Compressor::new(compression, longshore_layers::all_cores(), writer)
            .map_err(EngineError::layer(failed()))?;
        let mut tee = Tee {
            input,
            sink,
            digester: Digester::new(Algorithm::Sha256),
        };
        let read = index_of_tar(&mut tee, TarLimits::within(&limits))
            .map_err(EngineError::layer(failed()))?;
        io::copy(&mut tee, &mut io::sink()).map_err(EngineError::layer(failed()))?;
        let diff_id = DiffId(tee.digester.finish());
        let writer = tee.sink.finish().map_err(EngineError::layer(failed()))?;
        let (digest, size_bytes) = writer.commit(None)?;
        if read.index.is_empty() {
            return Err(EngineError::Archive("it holds no files".to_owned()));
        }
        Ok(ImageLayer {
            descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size_bytes),
            diff_id,
            created: Timestamp::now(),
        })
    }
}

/// Reads, and compresses and hashes what is read.
struct Tee<R, W: io::Write> {
    input: R,
    sink: Compressor<W>,
    digester: Digester,
}

impl<R: Read, W: io::Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        io::Write::write_all(&mut self.sink, &buffer[..count])?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

/// Applies a Dockerfile instruction that changes the configuration alone.
fn apply_change(config: &mut ImageConfig, change: &str) -> Result<(), EngineError> {
    let invalid = |why: String| EngineError::Invalid(format!("--change `{change}`: {why}"));
    let instruction = parse_trigger(change).map_err(|error| invalid(error.to_string()))?;
    let container = &mut config.config;
    match instruction.kind {
        InstructionKind::Env(env) => {
            for pair in env.pairs {
                let name = unquoted(&pair.key.value);
                container
                    .env
                    .retain(|known| known.split('=').next() != Some(&name));
                container
                    .env
                    .push(format!("{name}={}", unquoted(&pair.value.value)));
            }
        }
        InstructionKind::Label(label) => {
            for pair in label.pairs {
                container
                    .labels
                    .insert(unquoted(&pair.key.value), unquoted(&pair.value.value));
            }
        }
        InstructionKind::Cmd(cmd) => container.cmd = Some(command(&cmd.command)),
        InstructionKind::Entrypoint(entrypoint) => {
            container.entrypoint = Some(command(&entrypoint.command));
        }
        InstructionKind::User(user) => container.user = unquoted(&user.user.value),
        InstructionKind::Workdir(workdir) => container.working_dir = unquoted(&workdir.path.value),
        InstructionKind::StopSignal(signal) => {
            container.stop_signal = unquoted(&signal.signal.value);
        }
        InstructionKind::Volume(volume) => {
            container.volumes.extend(
                volume
                    .volumes
                    .iter()
                    .map(|path| (unquoted(&path.value), Empty {})),
            );
        }
        InstructionKind::Expose(expose) => {
            for port in &expose.ports {
                let port = unquoted(&port.value);
                let port = if port.contains('/') {
                    port
                } else {
                    format!("{port}/tcp")
                };
                container.exposed_ports.insert(port, Empty {});
            }
        }
        InstructionKind::Healthcheck(HealthcheckInstruction::None) => {
            container.healthcheck = Some(longshore_oci::Healthcheck {
                test: vec!["NONE".to_owned()],
                ..longshore_oci::Healthcheck::default()
            });
        }
        other => {
            return Err(invalid(format!(
                "{} cannot be given to an import",
                other.name()
            )));
        }
    }
    Ok(())
}

fn command(form: &CommandForm) -> Vec<String> {
    match form {
        CommandForm::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.value.clone()],
        CommandForm::Exec(_) => form.words(),
    }
}

/// Without the quotes around it.
fn unquoted(word: &str) -> String {
    let inner = |quote: char| {
        word.strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
    };
    inner('"')
        .or_else(|| inner('\''))
        .unwrap_or(word)
        .to_owned()
}
