"""What the estimators are made of; nothing here knows an estimator."""
