//! `COPY` and `ADD`.

use longshore_dockerfile::check::Rule;
use longshore_dockerfile::expand::Lexer;
use longshore_dockerfile::instruction::{AddInstruction, CopyInstruction, CopySource};
use longshore_dockerfile::quote::quote;
use longshore_dockerfile::span::{Span, Spanned};
use longshore_graph::{
    Copy, FileAction, FileActionKind, FileInput, FileOp, HttpSource, Input, Mkfile, ModeSpec, Op,
    Owner, Source, VertexMeta, redacted, redacted_url,
};

use super::input_place;
use crate::error::{LowerError, Problem};
use crate::git::{self, GitUrl};
use crate::lowering::Lowering;
use crate::mode::{parse_mode, parse_owner};
use crate::names::shown_command;
use crate::paths::{clean, destination, join, rooted, with_slashes};
use crate::remote;
use crate::stage::{Command, StageId};

/// The mode of a file that is written in the Dockerfile.
const INLINE_FILE_MODE: u32 = 0o644;

/// A `COPY` or `ADD` with everything expanded.
struct Request {
    is_add: bool,
    sources: Vec<RequestSource>,
    dest: String,
    chown: String,
    chmod: String,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    keep_git_dir: Option<bool>,
    checksum: String,
    unpack: Option<bool>,
    /// The stage or image that it copies from; nothing is the main context.
    from: Option<StageId>,
}

enum RequestSource {
    Path(String, Span),
    File { name: String, content: String },
}

/// Owner and mode of what is made.
#[derive(Clone)]
struct Attributes {
    owner: Option<Owner>,
    mode: Option<ModeSpec>,
}

/// The file operation while its sources are added one by one.
struct Draft {
    inputs: Vec<Input>,
    actions: Vec<FileAction>,
    base: FileInput,
}

impl Draft {
    fn new(base: Option<Input>) -> Self {
        let inputs: Vec<Input> = base.into_iter().collect();
        let base = if inputs.is_empty() {
            FileInput::Scratch
        } else {
            FileInput::Vertex(0)
        };
        Self {
            inputs,
            actions: Vec::new(),
            base,
        }
    }

    /// Where a source's files come from.
    fn input(&mut self, source: Option<Input>) -> FileInput {
        match source {
            Some(source) => FileInput::Vertex(input_place(&mut self.inputs, source)),
            None => FileInput::Scratch,
        }
    }

    /// Every copy goes on top of the one before it.
    fn push(&mut self, copy: Copy) {
        let input = match self.actions.len() {
            0 => self.base,
            done => FileInput::Action(done - 1),
        };
        self.actions.push(FileAction {
            input,
            kind: FileActionKind::Copy(copy),
        });
    }
}

impl Lowering<'_, '_> {
    pub(super) fn copy(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        copy: &CopyInstruction,
    ) -> Result<(), LowerError> {
        let chown = self.expand_flag(id, command, copy.chown.as_ref())?;
        let chmod = self.expand_flag(id, command, copy.chmod.as_ref())?;
        let (sources, dest) = self.expand_paths(id, command, &copy.sources, &copy.destination)?;
        let from = command.sources.first().copied();
        if let Some(from) = from.filter(|from| !self.stage(*from).is_dispatched) {
            let written = copy.from.as_ref().map(|from| from.value.clone());
            let (from, stage) = (
                written.unwrap_or_else(|| self.stage(from).base_name.clone()),
                self.stage(id).shown_name.clone(),
            );
            return Err(Problem::CopyFromLater { from, stage }.into());
        }
        let request = Request {
            is_add: false,
            sources,
            dest,
            chown,
            chmod,
            link: copy.link,
            parents: copy.parents,
            exclude: copy
                .exclude
                .iter()
                .map(|pattern| pattern.value.clone())
                .collect(),
            keep_git_dir: None,
            checksum: String::new(),
            unpack: None,
            from,
        };
        self.place(id, command, &request)?;
        for path in request.paths() {
            let path = rooted(path);
            match from {
                Some(from) => self.use_path(from, &path),
                None => drop(self.stage_mut(id).context_paths.insert(path)),
            }
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        add: &AddInstruction,
    ) -> Result<(), LowerError> {
        let chown = self.expand_flag(id, command, add.chown.as_ref())?;
        let chmod = self.expand_flag(id, command, add.chmod.as_ref())?;
        let checksum = self.expand_flag(id, command, add.checksum.as_ref())?;
        let (sources, dest) = self.expand_paths(id, command, &add.sources, &add.destination)?;
        let request = Request {
            is_add: true,
            sources,
            dest,
            chown,
            chmod,
            link: add.link,
            parents: false,
            exclude: add
                .exclude
                .iter()
                .map(|pattern| pattern.value.clone())
                .collect(),
            keep_git_dir: add.keep_git_dir,
            checksum,
            unpack: add.unpack,
            from: None,
        };
        self.place(id, command, &request)?;
        let local = request.paths().filter(|path| !is_remote(path)).map(rooted);
        self.stage_mut(id).context_paths.extend(local);
        Ok(())
    }

    fn expand_flag(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        flag: Option<&Spanned<String>>,
    ) -> Result<String, LowerError> {
        match flag {
            Some(flag) => Ok(self.expand(id, command, flag, flag.span)?),
            None => Ok(String::new()),
        }
    }

    /// The sources and the destination. Bodies of heredocs are expanded last.
    fn expand_paths(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        sources: &[CopySource],
        destination: &Spanned<String>,
    ) -> Result<(Vec<RequestSource>, String), LowerError> {
        let mut expanded = Vec::new();
        for source in sources {
            if let CopySource::Path(path) = source {
                let word = self.expand(id, command, path, path.span)?;
                expanded.push(RequestSource::Path(word, path.span));
            }
        }
        let dest = self.expand(id, command, destination, destination.span)?;
        for source in sources {
            let CopySource::Heredoc(file) = source else {
                continue;
            };
            let content = if file.expand {
                self.expand_with(Lexer::for_heredoc(), id, command, &file.content, file.span)?
            } else {
                file.content.clone()
            };
            expanded.push(RequestSource::File {
                name: file.name.clone(),
                content,
            });
        }
        Ok((expanded, dest))
    }

    /// Adds the vertices of a `COPY` or `ADD`.
    fn place(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        request: &Request,
    ) -> Result<(), LowerError> {
        let os = self.os(id);
        let dest = with_slashes(&request.dest, &os).map_err(Problem::WindowsPath)?;
        let dest = destination(&self.stage(id).state.directory, &dest);
        let attributes = Attributes {
            owner: Some(request.chown.as_str())
                .filter(|text| !text.is_empty())
                .map(parse_owner),
            mode: match request.chmod.as_str() {
                "" => None,
                text => Some(parse_mode(text)?),
            },
        };
        request.check_checksum()?;
        let text = &command.instruction.origin.original;
        let shown = shown_command(self.lexer, text, &self.stage(id).state.environment);
        let shown = redacted(&shown);
        let name = self.name_step(id, command, &shown);
        let is_layer = request.link && request.chmod.is_empty();
        let base = self.stage(id).state.output.filter(|_| !is_layer);
        let mut draft = Draft::new(base);
        for source in &request.sources {
            let copy = match source {
                RequestSource::Path(path, span) => {
                    self.check_ignored(command, request, path, *span);
                    let path = if is_remote(path) {
                        path.into()
                    } else {
                        with_slashes(path, &os).map_err(Problem::WindowsPath)?
                    };
                    self.path_copy(request, &path, &dest, &name, &mut draft)?
                }
                RequestSource::File { name, content } => {
                    self.file_copy(name, content, &dest, &mut draft)?
                }
            };
            draft.push(Copy {
                owner: attributes.owner.clone(),
                mode: attributes.mode.clone(),
                exclude: request.exclude.clone(),
                ..copy
            });
        }
        self.finish_copy(id, command, draft, is_layer, (name, &shown))?;
        self.commit(id, request.history(), true)
    }

    /// Makes the copy the stage's files, or lays it over them (`--link`).
    fn finish_copy(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        draft: Draft,
        is_layer: bool,
        (name, shown): (String, &str),
    ) -> Result<(), LowerError> {
        let ignore_cache = self.stage(id).ignore_cache;
        let meta = VertexMeta {
            ignore_cache,
            ..self.step_meta(id, command, name)
        };
        let op = Op::File(FileOp {
            actions: draft.actions,
        });
        let below = self.stage(id).state.output.filter(|_| is_layer);
        let Some(below) = below else {
            return Ok(self.advance(id, op, draft.inputs, meta)?);
        };
        let layer = self.shared.graph.add(op, draft.inputs, meta)?;
        // Both are one step to whoever looks on.
        self.stage_mut(id).step -= 1;
        let name = self.name_step(id, command, &format!("LINK {shown}"));
        let meta = VertexMeta {
            ignore_cache,
            ..self.step_meta(id, command, name)
        };
        Ok(self.advance(id, Op::Merge, vec![below, layer], meta)?)
    }

    fn path_copy(
        &mut self,
        request: &Request,
        path: &str,
        dest: &str,
        name: &str,
        draft: &mut Draft,
    ) -> Result<Copy, Problem> {
        if let Some(git) = git::parse(path) {
            return self.git_copy(request, git?, dest, name, draft);
        }
        if remote::is_http(path) {
            return self.http_copy(request, path, dest, name, draft);
        }
        let source = match request.from {
            Some(from) => self.stage(from).state.output,
            None => self.context_input()?,
        };
        Ok(request.local_copy(path, dest, draft.input(source)))
    }

    fn git_copy(
        &mut self,
        request: &Request,
        git: GitUrl,
        dest: &str,
        name: &str,
        draft: &mut Draft,
    ) -> Result<Copy, Problem> {
        if !request.is_add {
            return Err(Problem::CopyGit);
        }
        let keep_git_dir = match (request.keep_git_dir, git.keep_git_dir) {
            (Some(flag), Some(url)) if flag != url => return Err(Problem::KeepGitDir),
            (flag, url) => url.or(flag),
        };
        let flag = Some(request.checksum.clone()).filter(|checksum| !checksum.is_empty());
        let checksum = match (flag, git.checksum.clone()) {
            (Some(flag), Some(url)) if flag != url => {
                return Err(Problem::ChecksumMismatch { flag, url });
            }
            (flag, url) => url.or(flag),
        };
        let source = GitUrl {
            keep_git_dir,
            checksum,
            ..git
        }
        .into_source();
        let input = self
            .shared
            .graph
            .add_source(Source::Git(source), name.to_owned())?;
        Ok(Copy::new(draft.input(Some(input)), "/", dest))
    }

    fn http_copy(
        &mut self,
        request: &Request,
        url: &str,
        dest: &str,
        name: &str,
        draft: &mut Draft,
    ) -> Result<Copy, Problem> {
        if !request.is_add {
            return Err(Problem::CopyUrl);
        }
        let filename = remote::file_name(url);
        let checksum = match request.checksum.as_str() {
            "" => None,
            text => Some(text.parse()?),
        };
        let source = HttpSource {
            url: url.to_owned(),
            checksum,
            filename: filename.clone(),
            mode: None,
            owner: None,
        };
        let input = self
            .shared
            .graph
            .add_source(Source::Http(source), name.to_owned())?;
        let copy = Copy::new(draft.input(Some(input)), rooted(&filename), dest);
        Ok(Copy {
            unpack: request.unpack == Some(true),
            ..copy
        })
    }

    /// A file that is written in the Dockerfile: made in a tree of its own, then copied.
    fn file_copy(
        &mut self,
        name: &str,
        content: &str,
        dest: &str,
        draft: &mut Draft,
    ) -> Result<Copy, Problem> {
        let path = rooted(name);
        let input = self.inline_file(&path, INLINE_FILE_MODE, content)?;
        Ok(Copy::new(draft.input(Some(input)), path, dest))
    }

    /// A tree that holds one file.
    pub(super) fn inline_file(
        &mut self,
        path: &str,
        mode: u32,
        content: &str,
    ) -> Result<Input, Problem> {
        let file = Mkfile {
            path: path.to_owned(),
            mode,
            content: content.as_bytes().to_vec(),
            owner: None,
            timestamp: None,
        };
        let action = FileAction {
            input: FileInput::Scratch,
            kind: FileActionKind::Mkfile(file),
        };
        let op = Op::File(FileOp {
            actions: vec![action],
        });
        let name = "[internal] preparing inline document".to_owned();
        let meta = VertexMeta {
            name,
            ..VertexMeta::default()
        };
        self.shared.graph.add(op, Vec::new(), meta)
    }

    /// Whether the ignore file keeps a source out of the context. Patterns that take back in are
    /// too hard to foresee.
    fn check_ignored(&mut self, command: &Command<'_>, request: &Request, path: &str, span: Span) {
        let Some(matcher) = self.build.options.ignore.as_ref() else {
            return;
        };
        if request.from.is_some() || matcher.has_exclusions() || is_remote(path) {
            return;
        }
        let path = clean(path);
        let is_root = path == "." || path == "/";
        let leaves_nothing = matcher
            .patterns()
            .any(|(text, _)| matches!(text, "*" | "**" | "**/*"));
        if (is_root && !leaves_nothing) || !matcher.matches(&path) {
            return;
        }
        let keyword = if request.is_add { "Add" } else { "Copy" };
        let message = format!(
            "Attempting to {keyword} file {} that is excluded by .dockerignore",
            quote(&path)
        );
        let span = if command.is_trigger {
            command.location.span
        } else {
            span
        };
        self.find_at(Rule::CopyIgnoredFile, message, span, &command.location);
    }
}

impl Request {
    fn paths(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| match source {
            RequestSource::Path(path, _) => Some(path.as_str()),
            RequestSource::File { .. } => None,
        })
    }

    fn check_checksum(&self) -> Result<(), Problem> {
        if self.checksum.is_empty() {
            return Ok(());
        }
        let paths: Vec<&str> = self.paths().collect();
        match paths.as_slice() {
            [path] if is_remote(path) => Ok(()),
            [_] => Err(Problem::ChecksumLocal),
            _ => Err(Problem::ChecksumSources),
        }
    }

    /// A copy from the context, a stage or an image.
    fn local_copy(&self, path: &str, dest: &str, from: FileInput) -> Copy {
        let (mut source, mut include, mut required) = (path, Vec::new(), Vec::new());
        if self.parents {
            // What stands before `/./` is not kept of the path.
            let (parent, pattern) = path.split_once("/./").unwrap_or(("/", path));
            source = parent;
            let pattern = if pattern.starts_with('/') {
                pattern.to_owned()
            } else {
                rooted(pattern)
            };
            include.push(pattern.trim_start_matches('/').to_owned());
            if !has_wildcards(parent) && !has_wildcards(&pattern) {
                required.push(rooted(&join(parent, &pattern)));
            }
        }
        Copy {
            follow_link: true,
            directory_contents_only: true,
            unpack: self.unpack.unwrap_or(self.is_add),
            wildcard: true,
            allow_empty_wildcard: true,
            include,
            required,
            ..Copy::new(from, rooted(source), dest)
        }
    }

    fn history(&self) -> String {
        let mut words = vec![if self.is_add { "ADD" } else { "COPY" }.to_owned()];
        if self.parents {
            words.push("--parents".to_owned());
        }
        for (flag, value) in [("chown", &self.chown), ("chmod", &self.chmod)] {
            if !value.is_empty() {
                words.push(format!("--{flag}={value}"));
            }
        }
        for source in &self.sources {
            words.push(match source {
                RequestSource::Path(path, _) => redacted_url(path),
                RequestSource::File { name, .. } => format!("<<{name}"),
            });
        }
        words.push(self.dest.clone());
        words.join(" ") + " # buildkit"
    }
}

fn is_remote(path: &str) -> bool {
    remote::is_http(path) || git::parse(path).is_some_and(|git| git.is_ok())
}

/// Whether Go's `filepath.Match` finds anything special.
fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}
