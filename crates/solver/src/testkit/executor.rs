//! An executor on fake trees that refuses what the contract forbids.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use longshore_graph::{Op, Selection, Source, Vertex, VertexId};

use super::World;
use super::tree::{self, FakeTree, Files, Refused};
use crate::{
    BoxError, ContentDigest, Executor, LogStream, Origin, PathDigest, ResourceClass, StepContext,
};

/// The executor of one build. Notes in its [`World`] when
/// - a step runs with too few inputs, or with trees of another world,
/// - the same operation on the same content runs twice: at the same time, within a
///   build, or, unless the world allows it, ever (steps with `ignore_cache` excepted),
/// - a source is executed twice in a build, or pinned after a step ran,
/// - a step begins after the build was cancelled,
/// - bytes are restored that nobody encoded.
#[derive(Debug)]
pub struct FakeExecutor {
    world: Arc<World>,
    build: Mutex<Seen>,
    extras: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Seen {
    sources: HashSet<VertexId>,
    steps: HashSet<ContentDigest>,
}

impl FakeExecutor {
    /// The executor of a new build.
    pub fn new(world: &Arc<World>) -> Arc<Self> {
        Self::with_extras(world, &[])
    }

    /// An executor with settings that count for keys.
    pub fn with_extras(world: &Arc<World>, extras: &[(&str, &str)]) -> Arc<Self> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Arc::new(Self {
            world: world.clone(),
            build: Mutex::default(),
            extras: extras.iter().map(own).collect(),
        })
    }

    fn build(&self) -> MutexGuard<'_, Seen> {
        self.build.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes its time, as the world's seed decides.
    async fn dawdle(&self) {
        let (yields, sleep_ms) = match &mut self.world.book().chance {
            None => (0, 0),
            Some(random) => match random.below(16) {
                sleeps @ 0..4 => (0, 5 * sleeps as u64),
                yields => (yields / 4, 0),
            },
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        if sleep_ms > 0 {
            tokio::time::sleep(Duration::from_millis(sleep_ms)).await;
        }
    }

    async fn pace(&self, units: u64) {
        let unit_ms = self.world.book().pace_ms;
        if unit_ms > 0 {
            tokio::time::sleep(Duration::from_millis(units * unit_ms)).await;
        }
    }

    fn check(&self, tree: &FakeTree, what: &str) -> Result<(), BoxError> {
        if tree.world == self.world.id() {
            return Ok(());
        }
        let text = format!("{what}: a tree of another world");
        Err(self.world.book().violation(text))
    }

    /// The operation and what it works on, as far as the key may tell.
    fn signature(&self, vertex: &Vertex, inputs: &[FakeTree]) -> Result<ContentDigest, BoxError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&serde_json::to_vec(&vertex.op)?);
        for (index, input) in inputs.iter().enumerate() {
            let digest = tree::digest(&input.files, &vertex.selection(index))?;
            hasher.update(&digest.0);
        }
        Ok(hasher.finalize().into())
    }

    fn begin(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[FakeTree],
    ) -> Result<Running<'_>, BoxError> {
        let name = &vertex.meta.name;
        if inputs.len() != vertex.inputs.len() {
            let text = format!("`{name}` runs before its inputs are there");
            return Err(self.world.book().violation(text));
        }
        for input in inputs {
            self.check(input, name)?;
        }
        if ctx.cancel.is_cancelled() && !self.world.book().threads {
            let text = format!("`{name}` begins after the build was cancelled");
            return Err(self.world.book().violation(text));
        }
        let signature = self.begin_once(ctx, vertex, inputs)?;
        let class = self.class(vertex);
        let mut book = self.world.book();
        let busy = book.busy.entry(class).or_default();
        *busy += 1;
        let busy = *busy;
        let busiest = book.busiest.entry(class).or_default();
        *busiest = busy.max(*busiest);
        drop(book);
        Ok(Running {
            world: &self.world,
            signature,
            class,
        })
    }

    /// Enters what begins; `None` for what may run again.
    fn begin_once(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[FakeTree],
    ) -> Result<Option<ContentDigest>, BoxError> {
        let name = &vertex.meta.name;
        if matches!(vertex.op, Op::Source(_)) {
            if !self.build().sources.insert(ctx.vertex) {
                let text = format!("the source `{name}` runs twice");
                return Err(self.world.book().violation(text));
            }
            return Ok(None);
        }
        let signature = self.signature(vertex, inputs)?;
        if self.build().steps.contains(&signature) {
            let text = format!("`{name}` runs twice in a build");
            return Err(self.world.book().violation(text));
        }
        if vertex.meta.ignore_cache {
            return Ok(None);
        }
        let mut book = self.world.book();
        if book.done.contains(&signature) && !book.reruns_allowed {
            return Err(book.violation(format!("`{name}` runs again")));
        }
        if !book.running.insert(signature) {
            return Err(book.violation(format!("`{name}` runs twice at the same time")));
        }
        Ok(Some(signature))
    }

    fn finish(&self, vertex: &Vertex, inputs: &[FakeTree]) -> Result<(), BoxError> {
        if !matches!(vertex.op, Op::Source(_)) {
            let signature = self.signature(vertex, inputs)?;
            self.build().steps.insert(signature);
            // Who asks for a step to run does not hold up others, who may run it meanwhile.
            if !vertex.meta.ignore_cache {
                self.world.book().done.insert(signature);
            }
        }
        self.world.book().runs.push(vertex.meta.name.clone());
        Ok(())
    }

    fn tree(&self, files: Files) -> FakeTree {
        FakeTree {
            world: self.world.id(),
            files: Arc::new(files),
        }
    }
}

/// A step that runs, until dropped.
struct Running<'a> {
    world: &'a World,
    signature: Option<ContentDigest>,
    class: ResourceClass,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut book = self.world.book();
        if let Some(signature) = &self.signature {
            book.running.remove(signature);
        }
        if let Some(busy) = book.busy.get_mut(&self.class) {
            *busy -= 1;
        }
    }
}

#[async_trait]
impl Executor for FakeExecutor {
    type Tree = FakeTree;

    async fn pin(
        &self,
        _ctx: &StepContext,
        source: &Source,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError> {
        self.dawdle().await;
        let late = !self.build().steps.is_empty();
        let mut book = self.world.book();
        book.pins += 1;
        if late {
            return Err(book.violation("a source is pinned after a step ran".to_owned()));
        }
        drop(book);
        tree::digest(&self.world.source(source)?, selection)
    }

    async fn execute(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[FakeTree],
    ) -> Result<Vec<FakeTree>, BoxError> {
        let _running = self.begin(ctx, vertex, inputs)?;
        let name = &vertex.meta.name;
        ctx.log(LogStream::Stdout, name.as_bytes());
        if self.world.book().hanging.contains(name) {
            ctx.cancel.cancelled().await;
            return Err(Refused("cancelled".to_owned()).into());
        }
        if self.world.book().lingering.contains(name) {
            ctx.cancel.cancelled().await;
        }
        self.dawdle().await;
        if matches!(vertex.op, Op::Exec(_)) {
            self.pace(10).await;
        }
        let takes_ms = self.world.book().takes_ms.get(name).copied();
        if let Some(takes_ms) = takes_ms {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
        }
        if self.world.book().failing.contains(name) {
            return Err(Refused("exit code 1".to_owned()).into());
        }
        let files: Vec<_> = inputs.iter().map(|tree| tree.files.clone()).collect();
        let outputs = tree::apply(vertex, &files, |source| self.world.source(source))?;
        self.finish(vertex, inputs)?;
        Ok(outputs.into_iter().map(|files| self.tree(files)).collect())
    }

    async fn digest_of(
        &self,
        _ctx: &StepContext,
        tree: &FakeTree,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError> {
        self.check(tree, "digest_of")?;
        self.dawdle().await;
        tree::digest(&tree.files, selection)
    }

    async fn describe(
        &self,
        _ctx: &StepContext,
        tree: &FakeTree,
        selection: &Selection,
    ) -> Vec<PathDigest> {
        self.dawdle().await;
        tree::describe(&tree.files, selection)
    }

    async fn encode(
        &self,
        _ctx: &StepContext,
        tree: &FakeTree,
    ) -> Result<Option<Vec<u8>>, BoxError> {
        self.check(tree, "encode")?;
        self.dawdle().await;
        self.pace(1).await;
        let digest = tree::digest(&tree.files, &Selection::Identity)?;
        let encoded = digest.to_string().into_bytes();
        let mut book = self.world.book();
        book.stored.insert(encoded.clone(), tree.clone());
        book.encoded.insert(encoded.clone());
        Ok(Some(encoded))
    }

    async fn restore(
        &self,
        _ctx: &StepContext,
        encoded: &[u8],
        _origin: &Origin,
    ) -> Result<Option<FakeTree>, BoxError> {
        self.dawdle().await;
        let mut book = self.world.book();
        if !book.encoded.contains(encoded) {
            return Err(book.violation("restores what nobody encoded".to_owned()));
        }
        Ok(book.stored.get(encoded).cloned())
    }

    fn class(&self, vertex: &Vertex) -> ResourceClass {
        match &vertex.op {
            Op::Source(Source::Scratch | Source::Local(_)) | Op::Merge | Op::Diff => {
                ResourceClass::None
            }
            Op::Source(_) => ResourceClass::Network,
            Op::File(_) => ResourceClass::Cpu,
            Op::Exec(_) => ResourceClass::Run,
        }
    }

    fn key_extras(&self, _vertex: &Vertex) -> Vec<(String, String)> {
        self.extras.clone()
    }
}
