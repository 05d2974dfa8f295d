"""The Airflow DAGs of the kinds of study that other packages bring."""

from operators.study_dag import study_dag
from pipeline.studies.kinds import kinds

for kind in kinds().values():
    if not kind.is_built_in:
        globals()[f"{kind.name}_study"] = study_dag(kind.name)
