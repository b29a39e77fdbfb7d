# The public names. __init__.py imports each one when it is first used; type checkers read them here.
#
# The groups are in the order in which a reader meets them, and sorted inside.
# ruff: isort: skip_file

# Methods of the papers: PLND and MWork (arXiv 2402.18815), activation counts and LAPE (2402.16438), ternary neurons
# (2505.21505), ILO (2503.11280), and parallel multilingual input (2403.09073, submodule `pmi`).
from .methods.ablation import ablation_matrix as ablation_matrix
from .methods.ablation import perplexity as perplexity
from .methods.activations import Activations as Activations
from .methods.activations import activations as activations
from .methods.detection import Detection as Detection
from .methods.embeddings import SentenceEmbeddings as SentenceEmbeddings
from .methods.embeddings import sentence_embeddings as sentence_embeddings
from .methods.export import export as export
from .methods.fine_tuning import FineTuning as FineTuning
from .methods.fine_tuning import fine_tune as fine_tune
from .methods.freezing import freeze as freeze
from .methods.ilo import ilo as ilo
from .methods.lape import lape as lape
from .methods.lens import lens as lens
from .methods.means import mean_activations as mean_activations
from .methods.model_comparison import ModelComparison as ModelComparison
from .methods.model_comparison import ModelMeasures as ModelMeasures
from .methods.model_comparison import compare_models as compare_models
from .methods.model_comparison import measure_model as measure_model
from .methods.mwork import mwork as mwork
from .methods.mwork_search import MWorkSearch as MWorkSearch
from .methods.mwork_search import mwork_search as mwork_search
from .methods.overlap import Overlap as Overlap
from .methods.overlap import overlap as overlap
from .methods.plnd import detect as detect
from .methods.plnd import importance as importance
from .methods.retrieval import cka as cka
from .methods.retrieval import retrieval as retrieval
from .methods.ternary import Ternary as Ternary
from .methods.ternary import ternary as ternary
from .methods.ternary_change import TernaryChange as TernaryChange
from .methods.ternary_change import ternary_change as ternary_change
from .methods.ternary_parts import ternary_parts as ternary_parts
from .methods.tuning import NeuronTuning as NeuronTuning
from .methods.tuning import train_only as train_only
from .probes.masking import deactivate as deactivate

# Statistics, the rules that select neurons from them, and neuron sets.
from .neurons.activation_statistics import ActivationStatistics as ActivationStatistics
from .neurons.activation_statistics import MostActive as MostActive
from .neurons.importance_statistics import NeuronStatistics as NeuronStatistics
from .neurons.selection import Threshold as Threshold
from .neurons.selection import TopK as TopK
from .neurons.selection import TopMean as TopMean
from .neurons.sets import NeuronSet as NeuronSet
from .neurons.sites import SITES as SITES

# Models: where the neurons of a family of models are.
from .models.families import register_family as register_family
from .models.family import Family as Family

# Files, and the Hugging Face Hub.
from .data.corpus_types import TextFile as TextFile
from .hub import pull_from_hub as pull_from_hub
from .hub import push_to_hub as push_to_hub
from .neurons.set_files import load_sets as load_sets

# Errors.
from .errors import BackendUnavailable as BackendUnavailable
from .errors import CheckpointError as CheckpointError
from .errors import CorpusError as CorpusError
from .errors import HubError as HubError
from .errors import NonFiniteActivations as NonFiniteActivations
from .errors import TranslationError as TranslationError
from .errors import UnsupportedModel as UnsupportedModel

# Submodules.
from . import demo_model as demo_model
from . import ops as ops
from . import tasks as tasks
from . import triton_kernels as triton_kernels  # type: ignore[attr-defined,unused-ignore] # a checkout has it elsewhere
from .methods import pmi as pmi

embedded = demo_model  # its former name, not listed in __all__

__version__: str
