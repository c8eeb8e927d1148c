"""Stylizer of eleven paintings, learnt on 3,306 pictures of six painting styles, 128x128.

python -m train.main --config=stylizer_paintings --workdir=runs/stylizer_paintings --data_dir=<dir with
paintings/> --config.model.style_dir=<folder of the paintings> --config.model.vgg19_weights=<.h5 file>

2 cores of a Xeon at 2.5 GHz, 89 minutes, tests running beside: loss of Gatys 0.093 (of the photos: 0.783).
By Adam, at its best rate, 1,000 steps come to 0.53, by Muon to 0.43.

Your own paintings and photos: --config.model.styles='("name",)' --config.data.name=folder:<photos>
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from train.data.pipeline import Augment
from zoo import stylizer

STYLES = (
    "hokusai_great_wave_1831",
    "kandinsky_composition_vii_1913",
    "leger_contrast_of_forms_1913",
    "matisse_woman_with_a_hat_1905",
    "mondrian_composition_vii_1913",
    "monet_water_lilies_1919",
    "munch_the_scream_1893",
    "picabia_udnie_1913",
    "sakai_hoitsu_flowering_cherry_1820s",
    "turner_shipwreck_of_the_minotaur_1810",
    "van_gogh_starry_night_1889",
)

GATES = (
    "gatys_loss <= 0.105",
    "gatys_loss <= last * 1.05",
    "gatys_loss/* <= last * 1.1",
    "latency_p95_ms <= 500",
    "size_mb <= 7",
)


def get_config() -> Config:
    return Config(
        name="stylizer_paintings",
        family="stylizer",
        model=stylizer.Config(styles=STYLES),
        data=Data(name="paintings", image_size=128, batch_size=2, augment=Augment(flip=True)),
        optimizer=Optimizer(
            name=OptimizerName.MUON, learning_rate=6e-3, schedule=Schedule.COSINE, warmup_steps=100
        ),
        steps=16000,
        steps_per_execution=10,
        log_every=50,
        eval_every=4000,
        preview_every=1000,
        checkpoint_every=250,
    )
