"""Bad arrays: log-probabilities, scores, features, what figures show; each with a piece of its error."""

from refusals import call, variable

ARRAYS = [
    call("memlib.memorization(log_px)", "the result is of type ndarray; allowed: an xarray.Dataset"),
    call('memlib.memorization(result.drop_vars("log_px"))', "no variable 'log_px'; it has fold_of"),
    call('memlib.memorization(result.drop_vars("fold_of"))', "no variable 'fold_of'; it has log_px"),
    call(
        "memlib.memorization(result.isel(epoch=-1))",
        "log_px has dimensions ('repeat', 'fold', 'observation')",
    ),
    call(
        "memlib.memorization(result.isel(observation=[]))",
        "shape (1, 3, 4, 0); allowed: at least one of each",
    ),
    call("memlib.memorization(result.isel(fold=[0]))", "log_px has 1 fold; allowed: 2 or more"),
    call("memlib.memorization(result.isel(fold=[0, 1]))", "fold_of has values 0..3; allowed: 0..1"),
    call(
        "memlib.memorization(result.assign(fold_of=result.fold_of / 2))", "fold_of has type float64; allowed"
    ),
    call("memorization_scores(log_px, fold_of + 1)", "fold_of has values 1..4; allowed: 0..3"),
    call(
        "memorization_scores(log_px, fold_of[:2])", "log_px has shape (3, 4, 40) and fold_of (2, 40); allowed"
    ),
    call("memorization_scores(log_px.astype(str), fold_of)", "log_px has type <U32; allowed: numbers"),
    call(
        "memorization_scores(log_px * np.nan, fold_of)", "log_px is NaN 480 times and +inf 0 times; allowed"
    ),
    call(
        "memorization_scores(log_px * -np.inf, fold_of)", "log_px is NaN 0 times and +inf 480 times; allowed"
    ),
    call("memlib.exchanged((result % 2).isel(fold=[0, 1]))", "the run has 2 folds; allowed: 3 or more"),
    call("memlib.exchanged(result, seed=-1)", "seed is -1; allowed: 0 or more"),
    call("fold_assignment(3, 5, rng)", "n is 3; allowed: at least the number of folds, 5"),
    call("memlib.interval(scores, level=1.5)", "level is 1.5; allowed: between 0 and 1"),
    call("memlib.p_values(result, draws=0)", "draws is 0; allowed: 1 or more"),
    call("memlib.memorized(result, rate=1)", "rate is 1; allowed: between 0 and 1"),
    call(
        "memorization_scores(log_px, fold_of, variance=log_px)",
        "variance is negative or NaN 480 times; allowed",
    ),
    call(
        "memlib.p_values(result.assign(log_px=result.log_px * np.nan))",
        "log_px is NaN 480 times and +inf 0 times; allowed",
    ),
    call(
        "inference.rank_correlation(M, M * np.nan)",
        "a and b must be numbers (n,), n at least 4, without NaN",
    ),
    call("repeats.stability(result.isel(repeat=[0]))", "the number of repeats is 1; allowed: 2 or more"),
    call(
        "repeats.stability(result, result.isel(repeat=[0]))",
        "the other run's number of repeats is 1; allowed: 3",
    ),
    call("repeats.coverage(result, 2)", "the number of repeats is 3; allowed: 4 or more"),
    call("inference.reliability(result.isel(repeat=[0]))", "the number of repeats is 1; allowed: 2 or more"),
    call("inference.spearman_brown(1.1, repeats=1, wanted=2)", "correlation is 1.1; allowed: 0 to 1"),
    call(
        "inference.corrected_correlation(result, M[:9])", "scores are (9,), NaN 0 times; allowed: (40,), one"
    ),
    call("inference.corrected_correlation(result, M * np.nan)", "scores are (40,), NaN 40 times; allowed"),
    call("memorization_scores(log_px, fold_of, variance=log_px[0])", "variance has shape (4, 40); allowed"),
    call("memlib.psis.khat_threshold(0)", "num_samples is 0; allowed: 1 or more"),
]

TOO_FEW = [
    call("memlib.highly_memorized(M[:19])", "M has 19 observations; allowed: 20 or more for a 0.95 quantile"),
    call(
        "memlib.highly_memorized(M, 0.999)",
        "M has 40 observations; allowed: 1000 or more for a 0.999 quantile",
    ),
    call("memlib.highly_memorized(M, 95)", "quantile is 95; allowed: between 0 and 1"),
    call("memlib.highly_memorized(M * np.nan)", "M is NaN 40 times; allowed: numbers that have an order"),
    call(
        "memlib.highly_memorized(np.where(M > 30, np.inf, M))", "M is infinite 9 times among 40; allowed: so"
    ),
    call("figures.quantile_curves([1], [M[:19]])", "M must have at least 20 observations, got 19"),
    call("figures.fit_johnson_su(M[:4])", "M must have at least 20 observations, got 4"),
    call(
        "figures.score_density(M, quantile=0.99)", "M must have at least 100 observations for a 0.99 quantile"
    ),
    call(
        "figures.ratio_density(M[:4], M[:4] > 2)", "rho must have at least 5 finite values in a group, got 3"
    ),
    call("memlib.highly_memorized(M.reshape(4, 10))", "M has shape (4, 10); allowed: (n,)"),
]

YARDSTICKS = [
    call("mifid.moments(x[:4])", "4 images have 4 features each; allowed: more images than features"),
    call("mifid.mifid(x, y, eps=2)", "eps is 2; allowed: above 0 and at most 1"),
    call("mifid.mifid(x, y, eps=0.1, replicates=5)", "replicates is 5; allowed: 0 for none, or 20 or more"),
    call("mifid.memorization_distance(x, y[:, :3])", "generated have 4 features, training 3; allowed: as"),
    call("mifid.memorization_distance(x, 0 * y)", "all training features are zero; allowed: some that have"),
    call("mifid.mifid(np.nan * x, y, eps=0.1)", "generated have values that are not finite and below 1e"),
    call("samples.data_copying(x, y, y[:9])", "allowed: more generated images, or fewer cells than 3"),
    call("samples.closer_share(x, y, x)", "samples must be as many as validation observations"),
    call("samples.precision_recall(x, y, k=30)", "k is 30 and generated are 30; allowed: k from 1"),
    call("yardsticks.perfect_generator(y, x, 0.1, splits=1)", "splits is 1; allowed: 2 or more"),
    call('planted.cheat("copy", digits.images, 9)', "unknown cheat 'copy' (did you mean"),
    call("planted.mixture(digits.images, digits.images, 1.5)", "share is 1.5; allowed: 0 to 1"),
    call("features.train_classifier(digits.subset([0, 0]))", "has one label; allowed: images of two or more"),
    variable("MEMLIB_DATA", "FILE", "competition.load()", "the data folder is 'FILE', which is a file"),
    call("samples.authenticity(x, y, np.ones(99))", "spacing is (99,); allowed: (40,)"),
    call("samples.authenticity(x, y[:0])", "generated are float64 (0, 4); allowed: numbers of shape (n, d)"),
    call(
        "samples.authenticity(x, y, np.full(40, np.nan))", "spacing has values that are no distances; allowed"
    ),
    call(
        "samples.precision_recall(x, y, 3, np.full(40, -1))",
        "reach has values that are no distances; allowed",
    ),
    call(
        "features.extract(len, digits.images)", "module is a builtin_function_or_method; allowed: a torch.nn"
    ),
    call("samples.precision_recall(x, y, 3, np.ones(1))", "reach is (1,); allowed: (40,), one of each"),
    call(
        "detection.auc(M, M.astype(int))", "score is (40,) and positive int64 (40,); allowed: (n,), bool (n,)"
    ),
    call("detection.auc(M * np.nan, M > 9)", "score is NaN 40 times; allowed: numbers that have an order"),
    call("detection.auc(M, M > 99)", "0 of 40 are positive; allowed: some, and not all"),
    call("detection.auc(M, M > 9, level=95)", "level is 95; allowed: between 0 and 1"),
    call("yardsticks.few_fld(x, y, x, seed=-1)", "seed is -1; allowed: 0 or more"),
    call("yardsticks.by_image(x, y, x)", "samples are 30, held_out 40; allowed: as many"),
    call(
        "features.pixels(digits.images / 255)",
        "images are float64 (297, 1, 32, 32); allowed: uint8 (n, C, H, W)",
    ),
    call("planted.cheat('copies', digits.images / 255, 9)", "images must be uint8 (n, C, H, W) with n, H"),
    call(
        "planted.mixture(digits.images, digits.images[:9], 0.5)",
        "samples (9, 1, 32, 32); allowed: the same shape",
    ),
    call(
        "features.spaces(digits, memlib.ImageSet.of(digits.images[..., :16, :16]), 8, 1)",
        "are (1, 32, 32), the others (1, 16, 16); allowed: the same",
    ),
    call(
        "neighbors.half_resolution(digits.images / 255)",
        "images must be uint8 (n, C, H, W), n at least 1",
    ),
    call("neighbors.nearest(x * np.nan, y)", "queries have values that are not finite and below 1e150"),
    call(
        "neighbors.nearest(x, y, exclude_self=True)",
        "exclude_self needs equal shapes, got (40, 4) and (30, 4)",
    ),
    call(
        "neighbors.distance_ratio(x, y, x)",
        "samples must be as many as validation observations, got 40 and 30",
    ),
    call(
        "duplicates.near_duplicates(digits.images / 255)", "images must be uint8 (n, C, H, W), n at least 1"
    ),
    call(
        "duplicates.near_duplicates(digits.images, threshold=90)", "threshold is 90; allowed: between 0 and 1"
    ),
    call("planted.plant(digits, 9, near=-1)", "near is -1; allowed: 0 or more"),
    call("planted.plant(digits, 9, copies={1: 4})", "a key of copies is 1; allowed: 2 or more"),
    call(
        "exact.gaussian_fold_scores(x, 3, np.eye(4), 0.0)",
        "folds is 3; allowed: 2 or more, a divisor of the 40",
    ),
    call(
        "explorer.Kin(digits.images, np.array([[297]]), np.zeros((1, 1)))",
        "row of the pool is 297; allowed: -1 to 296",
    ),
    call(
        "explorer.Kin(digits.images / 255, np.array([[0]]), np.zeros((1, 1)))",
        "images must be uint8 (n, C, H, W) with n, H, W >= 1",
    ),
    call("detection.auc(M, M > 9, original=M[:9])", "original is (9,); allowed: as score, (40,)"),
    call("samples.data_copying(x, y, y, 41)", "cells is 41; allowed: 1 to 40, the training images"),
    call(
        "samples.data_copying(x, y, y, cluster.DBSCAN())",
        "cells is DBSCAN(); allowed: a number of cells, or a fi",
    ),
    call(
        "samples.data_copying(x, y, y, cluster.KMeans(3))", "cells is KMeans(n_clusters=3); allowed: a number"
    ),
    call(
        "samples.data_copying(x, y, y, samples.partitioned(x[:, :3], 1))",
        "cells are of 3 features, images of 4",
    ),
    call(
        "samples.data_copying(x + 99, y, y, samples.partitioned(np.vstack([x, x + 99]), 2))",
        "has no training im",
    ),
    call("samples.vendi(x * [[1], *[[0]] * 39])", "39 generated features are zero; allowed: such as have a"),
    call("samples.vendi(x * np.nan)", "generated have values that are not finite and below 1e150; allowed"),
    call("samples.vendi(x, order=-1)", "order is -1; allowed: 0 or more"),
    call("samples.vendi(x, order=np.nan)", "order is nan; allowed: 0 or more"),
    call(
        "samples.vendi(x, lambda x: x)", "the kernel gives float64 (40, 4); allowed: (40, 40), finite numbers"
    ),
    call("samples.vendi(x, lambda x: x @ x.T)", "the kernel is not symmetric with ones on the diagonal"),
    call("samples.vendi(x, lambda x: np.tri(40))", "the kernel is not symmetric with ones on the diagonal"),
    call("samples.vendi(x[:2], lambda x: np.array([[1, 2], [2, 1]]))", "least eigenvalue is -1; allowed: 0"),
    call("fld.fld(x, y, x[:, :3])", "training have 4 features, generated 3; allowed: as many"),
    call("fld.fld(x, y * np.inf, x)", "held_out have values that are not finite and below 1e150; allowed"),
    call(
        "fld.fld(x, y * [0, 1, 0, 1], x)", "2 of 4 features are the same in all of held_out; allowed: featur"
    ),
    call(
        "fld.fld(x, y[:1], x)", "4 of 4 features are the same in all of held_out; allowed: features that vary"
    ),
    call("fld.fld(x[:1], y, x)", "training is 1 image; allowed: 2 or more, to be split"),
    call(
        "fld.fld(x, y * 1e-9, x * 1e149)", "standardized generated have values that are not finite and below"
    ),
    call("fld.fld(x, y, x, seed=-1)", "seed is -1; allowed: a whole number, 0 or more"),
    call("yardsticks.yardsticks({}, x, y, 0.1)", "generators is 0; allowed: 1 or more"),
    call("features.spaces(digits, digits, 298, 1)", "width is 298; allowed: 1 to 297, the measured imag"),
    call("exact.LinearGaussian(x, M, 1.0, 0.5)", "sigma2 is 1.0, inflation 0.5; allowed: above 0, and at"),
    call("exact.LinearGaussian(x, M[:3], 1.0)", "weight and bias are ((40, 4), (3,)); allowed: (D, Z)"),
    call('duplicates.near_duplicates(digits.images, center="row")', "unknown center 'row'; allowed"),
    call("duplicates.near_duplicates(digits.images, digits.images[..., :8])", "others must have the shape"),
    call("duplicates.near_duplicates(digits.images[..., 1:])", "n at least 1, H and W even, got uint8 (297"),
]

FIGURES = [
    call("figures.image_grid(digits.images / 255)", "images must be uint8 (n, C, H, W)"),
    call("figures.extremes(digits.images, M)", "M must be numbers of shape (297,), finite, got shape (40,)"),
    call("figures.extreme_indices(M, 41)", "count is 41; allowed: 1 to 40"),
    call("figures.extreme_indices(M * np.nan, 2)", "M must be numbers of shape (n,), finite"),
    call(
        "figures.neighbors_panel(digits.images, digits.images, digits.images[1:], np.ones(297))",
        "there must be as many of each, got [297, 297, 296]",
    ),
    call("figures.losses(M[:5], M[:5])", "first_epoch is 6; allowed: 1 to 5"),
    call("figures.losses(M, M[1:])", "train_loss and test_loss must have the same labels and lengths"),
    call("figures.fit_johnson_su(M * 0)", "M must not be all equal for a distribution to be fitted"),
    call("figures.log_prob_proportions(M, M > 30, [20, 10])", "edges must be ascending, got [20. 10.]"),
    call("figures.log_prob_proportions(M, 1 * (M > 30), [10, 20])", "high must be bool (40,), got int64"),
    call(
        "figures.log_prob_histogram(M, M > 30, digits.images, [10, 20])",
        "log_px must be numbers of shape (297,), finite, got shape (40,)",
    ),
    call("figures.ratio_density(M, 1 * (M > 30))", "high must be bool (40,), got int64"),
    call("figures.ratio_by_score(M, M, 1, 3, 2)", "bins must be finite with width > 0 and low < high"),
    call("figures.ratio_by_score(M, M * np.nan, 1, 0, 40)", "rho must have finite values within the bins"),
    call("figures.known_scores([4.0], 0, [0, 1], {})", "grid must reach around all observations"),
    call(
        "figures.error_bars([1], {'a': ([1], [np.nan])}, '', '')",
        "lengths must be numbers of shape (1,), finite",
    ),
    call("figures.intervals(M, M, M, 1 * (M > 30), ('', ''))", "listed must be bool (40,), got int64 (40,)"),
    call("figures.weight_health({'a': [0.5, np.nan]}, 0.5)", "khat must not be NaN, got a: 1"),
    call("figures.roc_curves({'a': {'b': ([0, 1], [1, 0])}})", "rates must ascend from 0 to 1, got b"),
    call("figures.group_rows(digits.images, [[-1]], ['a'])", "groups must be integers 0..296 of shape (k,)"),
    call("figures.verdicts([[0.5]], [[0.5]], ['a'], ['b'])", "noticed must be bool (1, 1), got float64"),
    call(
        "figures.by_share([0, 50, 100], {'a': [1, 2, 3]}, '', '')",
        "shares must be within 0 to 1, got [  0.  50. 100.]",
    ),
    call(
        "figures.by_share([0, 1], {'a': [1]}, '', '')",
        "curves must be numbers of shape (2,), finite, got shape (1,)",
    ),
    call("figures.group_rows(digits.images, [[0]], [])", "as many names as groups, got 0, 1"),
    call("figures.agreement(M, M, '', '', M - 9)", "error is -9.0; allowed: 0 or more"),
    call("figures.error_bars([1], {'a': ([1], [-1])}, '', '')", "lengths is -1.0; allowed: 0 or more"),
    call("figures.intervals(M, M + 1, M + 2, M > 30, ('', ''))", "low and high must be ends of intervals"),
    call("figures.weight_health({}, 0.5)", "khat must have an entry"),
]
