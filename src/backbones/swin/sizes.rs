//! The sizes of a Swin transformer, read from the `config.json` of a folder. Called when a folder is opened, on every edit: no tensor is
//! read.

use super::Swin;
use crate::backbones::folder::Folder;
use crate::plan::anatomy::Pixels;

/// More positions on a side than any network has.
const MOST: usize = 256;

impl Swin {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or fits no network.
    pub fn of(folder: &Folder) -> Result<Swin, String> {
        folder.word("hidden_act", "gelu", &["gelu"])?;
        let image = folder.whole_or("image_size", Some(224))?;
        let noted = folder.beside("preprocessor_config.json");
        let swin = Swin {
            image,
            own: image,
            patch: folder.whole_or("patch_size", Some(4))?,
            width: folder.whole_or("embed_dim", Some(96))?,
            depths: folder.wholes_or("depths", &[2, 2, 6, 2])?,
            heads: folder.wholes_or("num_heads", &[3, 6, 12, 24])?,
            window: folder.whole_or("window_size", Some(7))?,
            ratio: folder.real_or("mlp_ratio", 4.0)?,
            epsilon: folder.real_or("layer_norm_eps", 1e-5)?,
            qkv_bias: folder.flag_or("qkv_bias", true)?,
            positions: folder.flag_or("use_absolute_embeddings", false)?,
            pixels: Pixels::of(noted.as_ref()).unwrap_or(Pixels::IMAGENET),
        };
        swin.fits().map_err(|words| format!("{}: {words}", folder.path.display()))?;
        Ok(swin)
    }

    /// The same for images of `side` pixels; 0 is its own.
    pub(super) fn at_side(self, side: usize) -> Result<Swin, String> {
        let image = if side == 0 { self.own } else { side };
        let swin = Swin { image, ..self };
        match swin.image.is_multiple_of(swin.patch) {
            true => swin.fits().map(|()| swin),
            false => Err(format!("images of {side} pixels are not whole patches of {}; take a multiple of it", swin.patch)),
        }
    }

    fn fits(&self) -> Result<(), String> {
        let (image, patch, window, stages) = (self.image, self.patch, self.window, self.depths.len());
        let blocks = self.depths.iter().fold(0_usize, |sum, depth| sum.saturating_add(*depth));
        if self.heads.len() != stages {
            return Err(format!("`depths` has {stages} stages and `num_heads` {}", self.heads.len()));
        }
        if stages > 8
            || blocks > 1 << 10
            || image < patch
            || image / patch > MOST
            || window > 64
            || !(0.01..=64.0).contains(&self.ratio)
        {
            return Err(format!(
                "{stages} stages of {blocks} blocks, {image} pixels in patches of {patch} and windows of {window}, MLPs {} times as wide: no network of these sizes can be opened",
                self.ratio
            ));
        }
        if !image.is_multiple_of(patch) {
            return Err(format!("{image} pixels for patches of {patch} may not leave a remainder"));
        }
        for (n, heads) in self.heads.iter().enumerate() {
            let (width, hidden) = self.widths(n);
            if !width.is_multiple_of(*heads) || hidden == 0 {
                return Err(format!("stage {} has {width} channels for {heads} heads and {hidden} in its MLPs", n + 1));
            }
        }
        Ok(())
    }
}
