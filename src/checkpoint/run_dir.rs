//! The run directory: made once, given checkpoints, and picked up again after any kind of end.
#![forbid(unsafe_code)]

use super::claim::{Claim, LOCK};
use super::folders::{make_folders, put, remove, remove_folders, steps, tidy};
use super::state::{MODEL, OPTIM, STATE, State, sha256_hex};
use super::{Best, CARD, CHECKPOINTS, CONFIG, MANIFEST, ModelCard, Progress, REPORT, RunDir, Saved, durable};
use crate::error::{Error, Result};
use crate::model::Vit;
use crate::ops::all_finite;
use crate::optim::AdamW;
use crate::tape::ParamArena;
use crate::weights::{self, Entry, Weights};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// AdamW's running mean of the gradient, as a prefix of parameter names.
const FIRST: &str = "exp_avg.";
/// AdamW's running mean of the squared gradient, as a prefix of parameter names.
const SECOND: &str = "exp_avg_sq.";
/// The parameters that are trained, as a prefix, where the model file holds their average.
const RAW: &str = "param.";

/// The links of a run directory.
const LINKS: [&str; 2] = ["best", "last"];

impl RunDir {
    /// Makes `root` (which must not exist or be empty) with config.toml, env.json and manifest.json, and keeps other
    /// processes from writing it. On failure nothing of it is left behind.
    pub fn create(root: &Path, config_toml: &str, manifest_json: &str) -> Result<Self> {
        let made = make_folders(root)?;
        // config.toml makes the folder a run directory, so it comes last.
        let files =
            [("env.json", super::env::describe()), (MANIFEST, manifest_json.into()), (CONFIG, config_toml.into())];
        let mut written = vec![root.join(LOCK)];
        let claim = Claim::take(root).inspect_err(|_| remove_folders(&made))?;
        let mut fill = || {
            for (name, text) in &files {
                let path = root.join(name);
                durable::write_new(&path, text.as_bytes())?;
                written.push(path);
            }
            durable::sync_dir(root)?;
            made.iter().try_for_each(|folder| durable::sync_dir(durable::parent(folder)))
        };
        if let Err(error) = fill() {
            written.iter().for_each(|file| drop(fs::remove_file(file)));
            remove_folders(&made);
            return Err(error);
        }
        Ok(RunDir { root: root.to_path_buf(), claim: Some(claim), made: true })
    }

    /// [`RunDir::create`] under the first of `roots` that no other run has; the last is taken or refused as it stands.
    /// Runs that begin at the same moment never share a folder.
    pub fn create_first(roots: impl Iterator<Item = PathBuf>, config_toml: &str, manifest_json: &str) -> Result<Self> {
        let mut roots = roots.peekable();
        while let Some(root) = roots.next() {
            if roots.peek().is_none() {
                return Self::create(&root, config_toml, manifest_json);
            }
            let output = durable::parent(&root);
            let made = if output.is_dir() { Vec::new() } else { make_folders(output)? };
            // Making the folder is what claims the name.
            match fs::create_dir(&root) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => {
                    remove_folders(&made);
                    return Err(Error::io(&root, &e));
                }
                Ok(()) => {}
            }
            return Self::create(&root, config_toml, manifest_json).inspect_err(|_| {
                remove_folders(&[&made[..], &[root]].concat());
            });
        }
        Err(Error::shape("run directory", "no name to choose from"))
    }

    /// Takes away a run that this process made and that failed before its first checkpoint, and nothing that others put
    /// there. True when it is gone; what cannot be looked into stays.
    pub fn discard_unsaved(&self) -> bool {
        let folder = self.root.join(CHECKPOINTS);
        let empty = match fs::read_dir(&folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) => e.kind() == ErrorKind::NotFound,
        };
        let linked = LINKS.iter().any(|link| fs::symlink_metadata(self.root.join(link)).is_ok());
        if !self.made || !empty || linked {
            return false;
        }
        for name in ["metrics.csv", "metrics.jsonl", "env.json", MANIFEST, CONFIG, LOCK] {
            let _ = fs::remove_file(self.root.join(name));
        }
        self.remove_events();
        remove_folders(&[self.root.clone(), folder]);
        !self.root.exists()
    }

    /// An existing run directory.
    pub fn open(root: &Path) -> Result<Self> {
        let run = RunDir { root: root.to_path_buf(), claim: None, made: false };
        if !root.join(CONFIG).is_file() {
            let reason = format!("is not a run directory: it has no {CONFIG}");
            return Err(Error::data(root, reason, "name a folder that `dynavit train` made"));
        }
        Ok(run)
    }

    /// Why nothing keeps other processes from writing this directory, if so.
    pub fn unlocked(&self) -> Option<&str> {
        self.claim.as_ref().and_then(|claim| claim.unlocked())
    }

    /// Keeps other processes from writing this directory from now on; an error when one of them does.
    pub fn claim(&mut self) -> Result<()> {
        if self.claim.is_none() {
            self.claim = Some(Claim::take(&self.root)?);
        }
        Ok(())
    }

    /// The runs under `output` that can be resumed, for `--resume auto`, whose names begin with `prefix`; first the one whose
    /// `last` was set most recently.
    pub fn newest_first(output: &Path, prefix: &str) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(output) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(output, &e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let root = entry.map_err(|e| Error::io(output, &e))?.path();
            let named = root.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            let set = fs::symlink_metadata(root.join("last")).and_then(|metadata| metadata.modified());
            if let (true, true, Ok(set)) = (named, root.join(CONFIG).is_file(), set) {
                found.push((set, root));
            }
        }
        found.sort();
        found.into_iter().rev().map(|(_, root)| RunDir::open(&root)).collect()
    }

    /// Writes `report/name`, what was found out about the run; readers see an older file or the new one whole.
    pub fn put_report(&self, name: &str, text: &str) -> Result<()> {
        let folder = self.root.join(REPORT);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, &e))?;
        durable::replace(&folder.join(name), text.as_bytes())
    }

    /// Writes `outcome.json`, what the finished run came to.
    pub fn put_outcome(&self, text: &str) -> Result<()> {
        durable::replace(&self.root.join("outcome.json"), text.as_bytes())
    }

    /// Takes `outcome.json` away: the run goes on, and comes to something else.
    pub fn drop_outcome(&self) -> Result<()> {
        durable::remove_if_there(&self.root.join("outcome.json"))
    }

    /// The folder of what was found out about the run; it need not be there.
    pub fn reports(&self) -> PathBuf {
        self.root.join(REPORT)
    }

    /// Clears what a process left that was killed while it began a run in `root`: a folder with nothing but the files of
    /// [`RunDir::create`], without a checkpoint. True when a run may begin there; an error when that process still runs.
    pub fn clear_unbegun(root: &Path) -> Result<bool> {
        let Ok(entries) = fs::read_dir(root) else { return Ok(!root.exists()) };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<Vec<_>>>();
        let names = names.map_err(|e| Error::io(root, &e))?;
        let known = [CONFIG, "env.json", MANIFEST, LOCK];
        if !names.iter().all(|name| known.iter().any(|known| name == known)) {
            return Ok(false);
        }
        let claim = Claim::take(root)?;
        if claim.unlocked().is_some() && !names.is_empty() {
            // Nothing tells whether the process that began it still runs.
            return Ok(false);
        }
        for name in names.iter().filter(|name| *name != LOCK) {
            let file = root.join(name);
            fs::remove_file(&file).map_err(|e| Error::io(&file, &e))?;
        }
        Ok(true)
    }

    /// config.toml's text.
    pub fn config(&self) -> Result<String> {
        let path = self.root.join(CONFIG);
        fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))
    }

    /// Whether the run saw JPEG files decoded as they are decoded now, to the last bit.
    pub fn decodes_alike(&self) -> bool {
        fs::read_to_string(self.root.join("env.json")).is_ok_and(|env| super::env::decodes_alike(&env))
    }

    /// manifest.json's text.
    pub fn manifest(&self) -> Result<String> {
        let path = self.root.join(MANIFEST);
        fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))
    }

    /// Saves a checkpoint durably (its model file holds the averaged weights where the optimiser keeps them), points `last`
    /// (and `best` when `is_best`) at it, and drops the oldest beyond `keep` (at least one is kept), never the one that
    /// `best` points at.
    ///
    /// A checkpoint of the same step is replaced. On failure the earlier checkpoints are as they were. Numbers that are not
    /// finite are an error: nobody could go on with them.
    pub fn save(
        &self,
        vit: &Vit,
        optim: &AdamW,
        progress: &Progress,
        card: &ModelCard,
        is_best: bool,
        keep: usize,
    ) -> Result<Saved> {
        let numbers = [progress.loss_sum, progress.epoch_seconds, progress.best_accuracy.unwrap_or(0.0)];
        if !numbers.iter().all(|x| x.is_finite()) {
            return Err(Error::NonFinite { what: "the loss to be saved".into(), remedy: "lower --lr".into() });
        }
        check_moments("save", vit, optim)?;
        let folder = self.root.join(CHECKPOINTS);
        if !folder.is_dir() {
            fs::create_dir(&folder).map_err(|e| Error::io(&folder, &e))?;
            durable::sync_dir(&self.root)?;
        }
        let name = format!("step-{}", progress.step);
        let place = folder.join(&name);
        let temporary = durable::neighbour(&place);
        let built = self.build(&temporary, vit, optim, progress, card).and_then(|()| put(&temporary, &place));
        let aside = built.inspect_err(|_| drop(fs::remove_dir_all(&temporary)))?;
        durable::point(&self.root, "last", &name)?;
        if is_best {
            durable::point(&self.root, "best", &name)?;
        }
        let left = aside.into_iter().chain(self.prune(progress, keep)?).collect();
        Ok(Saved { checkpoint: place, left })
    }

    /// The newest checkpoint whose hashes hold, passing over torn ones; the second value tells them, file and reason,
    /// and leftovers that could not be cleared away. No checkpoint when none was ever saved; an error when there are some and
    /// none is whole, or when only the links tell of them. The directory must be this process's own ([`RunDir::claim`]).
    pub fn latest(&self) -> Result<(Option<PathBuf>, Vec<String>)> {
        let folder = self.root.join(CHECKPOINTS);
        for link in LINKS.map(|link| self.root.join(link)) {
            if fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_dir()) {
                let reason = "is a folder, as a copy that follows links leaves it";
                return Err(Error::data(&link, reason, format!("remove it: {} has the checkpoints", folder.display())));
            }
        }
        if !folder.is_dir() {
            let told = LINKS.iter().any(|link| fs::symlink_metadata(self.root.join(link)).is_ok());
            if told || fs::symlink_metadata(&folder).is_ok() {
                let remedy = "bring the folder back, or begin a new run";
                return Err(Error::data(&folder, "is not there, and checkpoints were saved in it", remedy));
            }
            return Ok((None, Vec::new()));
        }
        // Without a lock what looks left behind may be another process's.
        let mut told = if self.unlocked().is_some() { Vec::new() } else { tidy(&folder)? };
        let mut passed = Vec::new();
        for step in steps(&folder)?.into_iter().rev() {
            let checkpoint = folder.join(format!("step-{step}"));
            match State::verify(&checkpoint) {
                Ok(state) if state.progress.step == step => {
                    told.extend(passed.into_iter().map(|fault| format!("passed over a torn checkpoint: {fault}")));
                    return Ok((Some(checkpoint), told));
                }
                Ok(state) => passed.push(format!("{}: holds step {}", checkpoint.display(), state.progress.step)),
                Err(fault) => passed.push(fault.to_string()),
            }
        }
        if passed.is_empty() {
            return Ok((None, told));
        }
        let reason = format!("no checkpoint is whole ({})", passed.join(", "));
        Err(Error::data(&self.root, reason, "restore the files from a copy, or start a new run"))
    }

    /// Finds the checkpoint of the best epoch again and points `best` at it: that of `progress` where it is whole, else the best
    /// of those that are. `whole` is one that is known to be. Returns where it is, None when no whole one ended an epoch of known
    /// accuracy, and what is wrong with the others.
    pub fn mend_best(&self, progress: &Progress, whole: &Path) -> Result<(Option<Best>, Vec<String>)> {
        let folder = self.root.join(CHECKPOINTS);
        let rows = self.metrics()?;
        let mut ends: Vec<(Best, PathBuf)> = Vec::new();
        for step in steps(&folder)? {
            let name = format!("step-{step}");
            let place = folder.join(&name);
            let Ok(state) = State::read(&place) else { continue };
            let epoch = state.progress.epoch;
            let accuracy = if progress.best_epoch == Some(epoch) {
                progress.best_accuracy
            } else {
                rows.iter().find(|row| row.epoch == epoch).map(|row| row.val_accuracy)
            };
            let ends_an_epoch = state.progress.batch == 0 && state.progress.step <= progress.step;
            if let Some(accuracy) = accuracy.filter(|_| ends_an_epoch) {
                ends.push((Best { epoch, accuracy, name }, place));
            }
        }
        // The best first, the first of equals before the others.
        ends.sort_by(|(a, _), (b, _)| b.accuracy.total_cmp(&a.accuracy).then(a.epoch.cmp(&b.epoch)));
        let mut faults = Vec::new();
        for (best, place) in ends {
            match State::verify(&place) {
                Err(fault) if place != whole => faults.push(fault.to_string()),
                _ => {
                    let named = durable::follow(&self.root, "best").ok().flatten();
                    if named.as_ref().and_then(|path| path.file_name()) != place.file_name() {
                        durable::point(&self.root, "best", &best.name)?;
                    }
                    return Ok((Some(best), faults));
                }
            }
        }
        Ok((None, faults))
    }

    /// Restores parameters, their average where the optimiser keeps one, moments and progress from a checkpoint folder of this run, bit for bit.
    ///
    /// `vit` and `optim` must have been made from the run's config; the arena must not be shared. Nothing is changed
    /// unless the checkpoint is whole, was saved under this config, and fits.
    pub fn restore(&self, checkpoint: &Path, vit: &mut Vit, optim: &mut AdamW) -> Result<Progress> {
        if !checkpoint.is_dir() {
            return Err(Error::data(checkpoint, "is not a checkpoint folder", "name another checkpoint"));
        }
        let state = State::verify(checkpoint)?;
        if state.config_sha256 != sha256_hex(self.config()?.as_bytes()) {
            return Err(Error::data(
                self.root.join(CONFIG),
                format!("is not the config that {} was saved under", checkpoint.display()),
                "put the old one back, or start a new run with the checkpoint as --weights",
            ));
        }
        check_moments("restore", vit, optim)?;
        let model = Weights::open(&checkpoint.join(MODEL))?;
        let moments = Weights::open(&checkpoint.join(OPTIM))?;
        check(&model, "", &vit.params)?;
        check(&moments, FIRST, &vit.params)?;
        check(&moments, SECOND, &vit.params)?;
        if optim.average.is_some() {
            check(&moments, RAW, &vit.params)?;
        }
        let (first, second) = (optim.exp_avg.data_mut(), optim.exp_avg_sq.data_mut());
        for id in vit.params.ids() {
            let (name, range) = (vit.params.name(id).to_string(), vit.params.range(id));
            match &mut optim.average {
                Some(average) => {
                    model.read_f32(&name, &mut average.values.data_mut()[range.clone()])?;
                    moments.read_f32(&format!("{RAW}{name}"), vit.params.values_mut(id))?;
                }
                None => model.read_f32(&name, vit.params.values_mut(id))?,
            }
            moments.read_f32(&format!("{FIRST}{name}"), &mut first[range.clone()])?;
            moments.read_f32(&format!("{SECOND}{name}"), &mut second[range])?;
        }
        optim.step = state.adamw_step;
        Ok(state.progress)
    }

    /// Fills a new folder with a whole checkpoint, state.json last.
    fn build(&self, dir: &Path, vit: &Vit, optim: &AdamW, progress: &Progress, card: &ModelCard) -> Result<()> {
        fs::create_dir(dir).map_err(|e| Error::io(dir, &e))?;
        let card = serde_json::to_string(card).expect("a card has only string keys");
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string()), (CARD.to_string(), card)]);
        let raw = vit.params.flat().to_host()?;
        let average = optim.average.as_ref().map(|average| average.values.to_host()).transpose()?;
        let (first, second) = (optim.exp_avg.to_host()?, optim.exp_avg_sq.to_host()?);
        for (what, values) in [("a parameter", &raw), ("a moment of AdamW", &first), ("a moment of AdamW", &second)] {
            if !all_finite::check(values) {
                let what = format!("{what} after step {}", progress.step);
                return Err(Error::NonFinite { what, remedy: "lower --lr".into() });
            }
        }
        let model = average.as_ref().unwrap_or(&raw);
        write_arena(&dir.join(MODEL), &vit.params, &[("", model.data())], &metadata)?;
        let mut moments = vec![(FIRST, first.data()), (SECOND, second.data())];
        if optim.average.is_some() {
            moments.push((RAW, raw.data()));
        }
        write_arena(&dir.join(OPTIM), &vit.params, &moments, &BTreeMap::new())?;
        let state = State::seal(dir, progress, optim.step, sha256_hex(self.config()?.as_bytes()))?;
        durable::write_new(&dir.join(STATE), state.to_json().as_bytes())?;
        durable::sync_dir(dir)
    }

    /// Drops the oldest checkpoints up to this step beyond `keep`, but the best epoch's. Those of later steps, which a run
    /// resumed at an earlier one finds before it, are left until it has come by again. Returns what could not be removed.
    fn prune(&self, progress: &Progress, keep: usize) -> Result<Vec<String>> {
        let folder = self.root.join(CHECKPOINTS);
        let best = durable::follow(&self.root, "best")?;
        let best = best.as_ref().and_then(|best| best.file_name());
        let mut left = Vec::new();
        let mut old = steps(&folder)?;
        old.retain(|&n| n <= progress.step);
        for n in old.into_iter().rev().skip(keep.max(1)) {
            let place = folder.join(format!("step-{n}"));
            // Whatever became of the link, the best epoch's weights stay.
            let is_best = || State::read(&place).is_ok_and(|state| state.ends_best_epoch_of(progress));
            if best == place.file_name() || is_best() {
                continue;
            }
            if let Err(error) = remove(&place) {
                left.push(format!("an old checkpoint is left behind: {error}"));
            }
        }
        Ok(left)
    }
}

/// Writes the parameters' slices of each flat array under its prefix.
fn write_arena(
    path: &Path,
    params: &ParamArena,
    arrays: &[(&str, &[f32])],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let named: Vec<(String, &[usize], &[f32])> = arrays
        .iter()
        .flat_map(|&(prefix, flat)| {
            params.ids().map(move |id| {
                let name = format!("{prefix}{}", params.name(id));
                (name, params.shape(id), &flat[params.range(id)])
            })
        })
        .collect();
    let entries: Vec<Entry> = named.iter().map(|(name, shape, values)| Entry { name, shape, values }).collect();
    weights::write(path, &entries, metadata)
}

/// That the optimiser is one of this model.
fn check_moments(op: &'static str, vit: &Vit, optim: &AdamW) -> Result<()> {
    let (n, first, second) = (vit.params.flat().len(), optim.exp_avg.len(), optim.exp_avg_sq.len());
    if (first, second) == (n, n) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{n} parameters, and moments of {first} and {second}")))
}

/// That `weights` has every parameter under `prefix`, in its shape.
fn check(weights: &Weights, prefix: &str, params: &ParamArena) -> Result<()> {
    for id in params.ids() {
        let name = format!("{prefix}{}", params.name(id));
        let found = weights.info(&name).map(|info| info.shape.as_slice());
        if found != Some(params.shape(id)) {
            let reason = match found {
                Some(shape) => format!("{name} is {shape:?}, and the model's is {:?}", params.shape(id)),
                None => format!("{name} is not in it"),
            };
            return Err(Error::data(weights.path(), reason, "name a checkpoint of this run"));
        }
    }
    Ok(())
}
